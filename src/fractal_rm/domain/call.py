"""A call over HTTP: where it goes, within which limits, and what came back."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import msgspec


class Tls(msgspec.Struct, frozen=True):
    """Files for TLS: a CA of one's own to trust, a certificate and its key to show. PEM paths."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class Origin(msgspec.Struct, frozen=True):
    """Where a connection goes. Connections are pooled by origin."""

    protocol: str
    host: str
    port: int
    tls: Tls | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}"


class Route(msgspec.Struct, frozen=True, eq=False):
    """Everything of a request that is the same for every call of one endpoint, made once.

    ``head`` is the request line and the fixed header lines, each ended by CRLF, without the empty
    line: a call adds its own header lines, ``Content-Length`` and the body. ``repeatable`` says
    that the same request may be sent twice. Times are in seconds, sizes in bytes.
    """

    origin: Origin
    method: str
    target: str
    head: bytes
    connect_timeout_s: float = 3.0
    timeout_s: float = 30.0
    max_response_bytes: int = 8 * 1024 * 1024
    repeatable: bool = True


def route(
    origin: Origin,
    method: str,
    target: str,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    connect_timeout_s: float = 3.0,
    timeout_s: float = 30.0,
    max_response_bytes: int = 8 * 1024 * 1024,
    repeatable: bool = True,
) -> Route:
    """Make a route. ``target`` begins with ``/``. A ``Host`` in ``headers`` replaces our own.

    Raises ValueError where a name or value could break out of its line (CR, LF, NUL), or is not
    Latin-1.
    """
    host = str(origin).partition("://")[2]
    fixed = [("Host", host), ("User-Agent", "fractal-rm"), ("Accept", "*/*")]
    if method != "GET":
        fixed.append(("Content-Type", "application/json"))
    replaced = {name.lower() for name, _ in headers}
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [header_line(n, v) for n, v in fixed if n.lower() not in replaced]
    lines += [header_line(n, v) for n, v in headers]
    return Route(
        origin=origin,
        method=method,
        target=target,
        head="".join(f"{line}\r\n" for line in lines).encode("latin-1"),
        connect_timeout_s=connect_timeout_s,
        timeout_s=timeout_s,
        max_response_bytes=max_response_bytes,
        repeatable=repeatable,
    )


def header_line(name: str, value: str) -> str:
    """One header line without its end. Raises ValueError on CR, LF or NUL (RFC 9110, 5.5)."""
    line = f"{name}: {value}"
    if any(c in line for c in "\r\n\0"):
        raise ValueError(f"header {name!r} holds a line break or NUL")
    return line


class Reply(msgspec.Struct, frozen=True):
    """What a server answered: final status, header lines as they came, whole body."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header, or None. Few replies are asked, so it is found then."""
        wanted = name.lower().encode()
        for found, value in self.headers:
            if len(found) == len(wanted) and found.lower() == wanted:
                return value.decode("latin-1")
        return None


class BodyForm(str, Enum):
    """How the items of a POST become its body."""

    JSON = "json"
    PYTHON_REPR = "python-repr"


class Caller(Protocol):
    """Makes one HTTP call. Real: ``adapters/http1``; fake: ``adapters/memory``."""

    async def call(
        self,
        route: Route,
        body: bytes | None = None,
        headers: bytes = b"",
        timeout_s: float | None = None,
    ) -> Reply:
        """Call ``route``; ``headers`` are finished header lines, each ended by CRLF.

        ``timeout_s`` shortens the route's total limit, never lengthens it.
        Raises CallFailed (ConnectFailed, CallTimedOut, BadReply, ReplyTooLarge).
        """
        ...

    async def close(self) -> None:
        """Close every connection. Calls in flight fail. May be called twice."""
        ...
