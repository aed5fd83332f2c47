"""The cookies of the pages (RFC 6265): the session, and how pages are shown."""

from __future__ import annotations

from collections.abc import Iterable


def session_cookie(port: int) -> str:
    """The name of the cookie of a session. Nodes on other ports of this machine have others."""
    return f"fractal_rm_{port}"


def cookie_value(lines: Iterable[bytes], name: str) -> str:
    """The value of the cookie ``name`` in lines of ``Cookie``. Empty if there is none."""
    wanted = name.encode()
    for line in lines:
        for part in line.split(b";"):
            key, _, value = part.strip(b" \t").partition(b"=")
            if key == wanted and value.isascii():
                return value.decode()
    return ""
