"""Who looks at a page, what they may do there, and the token of their forms."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request

from fractal_rm.domain.access import THIS_MACHINE, Identity, Scope
from fractal_rm.domain.errors import FractalError
from fractal_rm.engine.ports import Sessions
from fractal_rm.web.api.identity import identity_of
from fractal_rm.web.cookies import cookie_value, session_cookie


class NotAllowed(FractalError):
    """The visitor has signed in, and may not do this. The text names the scope that is missing."""

    code = "missing-scope"


class Visitor(msgspec.Struct, frozen=True):
    """Who looks at a page. ``form_token`` must be in every form that is sent from the page.

    ``session`` is the text of the session; empty if nobody has signed in.
    """

    identity: Identity
    session: str
    form_token: str

    @classmethod
    def of(cls, request: Request[Any, Any, Any], sessions: Sessions, port: int) -> Visitor:
        """The visitor that sends a request."""
        session, identity = session_of(request, port), identity_of(request)
        if session and sessions.identify(session) != identity:
            session = ""  # it has ended
        return cls(identity, session, sessions.form_token(session))

    @property
    def name(self) -> str:
        """The name of the token, or ``this machine``."""
        return self.identity.name.removeprefix("token ")

    @property
    def is_signed_in(self) -> bool:
        """Whether somebody has signed in with this browser."""
        return bool(self.session)

    @property
    def is_local(self) -> bool:
        """Whether the browser runs on this machine, and nobody has signed in."""
        return self.identity is THIS_MACHINE

    def may(self, scope: str) -> bool:
        """Whether the visitor has a scope, such as ``operate``."""
        return self.identity.may(Scope(scope))


def session_of(request: Request[Any, Any, Any], port: int) -> str:
    """The text of the session of a request, valid or not; empty if there is none."""
    lines = [value.encode() for value in request.headers.getall("cookie", [])]
    return cookie_value(lines, session_cookie(port))


def path_of(request: Request[Any, Any, Any]) -> str:
    """The path of a request as the browser knows it: percent-encoded, without a base path."""
    return request.scope["raw_path"].decode("ascii")


def root_of(path: str) -> str:
    """The address of the overview, relative to ``path``: pages also work below a base path.

    ``path`` is percent-encoded: a slash that is encoded does not count.
    """
    return "../" * (path.count("/") - 1) or "./"
