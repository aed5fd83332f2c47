"""The paths of the pages, and who may send which request there.

Pages are for people with a browser, which sends a cookie instead of a token (`domain.sessions`). So
everyone who could sign in is let in, and the pages themselves say what is missing.
"""

from __future__ import annotations

from fractal_rm.domain.access import Scope

FOLDERS = frozenset({
    b"", b"overview", b"flows", b"runs", b"failures", b"dead", b"bulk", b"components", b"nodes",
    b"config", b"sign-in", b"sign-out", b"settings", b"static",
})  # fmt: skip
_OPEN = frozenset({b"sign-in", b"sign-out", b"settings", b"static"})


def is_page(path: bytes) -> bool:
    """Whether a percent-decoded path belongs to the pages."""
    return path[:1] == b"/" and path[1:].partition(b"/")[0] in FOLDERS


def scope_of_page(method: str, path: str) -> Scope | None:
    """The scope that a request needs. None: everybody may send it.

    To change the configuration needs ADMIN, and to start a run TRIGGER.
    """
    parts = [part for part in path.split("/") if part]
    if parts and parts[0].encode() in _OPEN:
        return None
    if method in ("GET", "HEAD"):
        # The text to edit is whole: secrets that are written into flows are not masked there.
        return Scope.ADMIN if parts[:2] == ["config", "edit"] else Scope.READ
    if parts[:1] == ["config"]:
        return Scope.ADMIN
    return Scope.TRIGGER if parts[:1] == ["flows"] and parts[2:] == ["try"] else Scope.OPERATE
