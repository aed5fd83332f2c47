"""The client of a request, as `web.protocol` has identified it."""

from __future__ import annotations

from typing import Any

from litestar import Request

from fractal_rm.domain.access import Identity
from fractal_rm.web.request_state import IDENTITY


def identity_of(request: Request[Any, Any, Any]) -> Identity:
    """The client that sends a request. Raises KeyError if the request was not checked."""
    return request.scope["state"][IDENTITY]
