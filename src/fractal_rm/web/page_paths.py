"""The paths of the pages, and who may send which request there.

Pages are for people with a browser, which sends a cookie instead of a token (`domain.sessions`). So
everyone who could sign in is let in, and the pages themselves say what is missing.
"""

from __future__ import annotations

from fractal_rm.domain.access import Scope

FOLDERS = frozenset({
    "overview", "flows", "runs", "failures", "dead", "bulk", "components", "nodes", "config",
    "sign-in", "sign-out", "settings", "static",
})  # fmt: skip
# Nothing else is at these paths, for people or for programs.
_PROGRAMS = frozenset({"v1", "livez", "readyz", "metrics", "schema"})
_OPEN = (["sign-in"], ["sign-out"], ["settings"], ["static"])


def parts_of(path: str) -> list[str]:
    """The parts of a percent-decoded path. As for the framework, empty parts do not count."""
    return [part for part in path.split("/") if part]


def is_endpoint(path: str, endpoint: str) -> bool:
    """Whether a percent-decoded path is that of ``rest.endpoint``."""
    return path == endpoint or "/" + "/".join(parts_of(path)) == endpoint


def is_page(path: str, endpoint: str) -> bool:
    """Whether a percent-decoded path belongs to the pages.

    The client of a connection and the application both ask this function. So a request that is let
    in because of a cookie is always answered with a page.
    """
    if path[:1] != "/" or is_endpoint(path, endpoint):
        return False
    parts = parts_of(path)
    return not parts or parts[0] in FOLDERS


def is_nowhere(method: str, path: str, endpoint: str) -> bool:
    """Whether there is nothing at a percent-decoded path that somebody reads.

    A browser gets the page "Not found" there. As for `is_page`, the client of a connection and the
    application both ask this function.
    """
    parts = parts_of(path)
    if method not in ("GET", "HEAD") or path[:1] != "/" or not parts:
        return False
    return parts[0] not in (FOLDERS | _PROGRAMS | {*parts_of(endpoint)[:1]})


def is_open_page(path: str) -> bool:
    """Whether everybody may use a page: they sign in there, or change how pages are shown."""
    return parts_of(path)[:1] in _OPEN


def scope_of_page(method: str, path: str) -> Scope | None:
    """The scope that a request needs. None: everybody may send it.

    To change the configuration needs ADMIN, and to start a run TRIGGER.
    """
    if is_open_page(path):
        return None
    parts = parts_of(path)
    if method in ("GET", "HEAD", "OPTIONS"):
        # The text to edit is whole: secrets that are written into flows are not masked there.
        return Scope.ADMIN if parts[:2] == ["config", "edit"] else Scope.READ
    if parts[:1] == ["config"]:
        return Scope.ADMIN
    return Scope.TRIGGER if parts[:1] == ["flows"] and parts[2:] == ["try"] else Scope.OPERATE
