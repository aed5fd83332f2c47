"""Problem details (RFC 9457): the body of every error response."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from fractal_rm.domain.state import State

MEDIA_TYPE = "application/problem+json"


class Problem(msgspec.Struct, omit_defaults=True):
    """The body of an error response.

    ``type`` is for programs, and never changes for an error. ``detail`` is for people. ``run`` and
    ``epoch`` are set in the refusal of an offer that this node has not taken (`domain.handoff`).
    """

    type: str
    title: str
    status: int
    detail: str = ""
    run: str = ""
    epoch: int = 0


class ActionProblem(Problem, omit_defaults=True):
    """The body of a refused action. ``state``, ``node`` and ``new_run`` say how the run is now.

    ``node``: the other node that has the run. ``new_run``: the run that repeats it already.
    """

    state: State | msgspec.UnsetType = msgspec.UNSET
    node: str | msgspec.UnsetType = msgspec.UNSET
    new_run: str | msgspec.UnsetType = msgspec.UNSET


def encode_response(problem: Problem) -> bytes:
    """Encode a complete HTTP response, for an error that occurs before a request was read."""
    body = msgspec.json.encode(problem)
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers_of(problem.status))
    head = (
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
        f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n{extra}"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


def headers_of(status: int) -> list[tuple[str, str]]:
    """The headers of responses with a status (RFC 9110, 10.2.3 and 11.6.1; RFC 6585, 4)."""
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        return [("Retry-After", "1")]
    if status == HTTPStatus.UNAUTHORIZED:
        return [("WWW-Authenticate", 'Bearer realm="fractal-rm"')]
    return []


def problem_app(problem: Problem) -> Any:
    """Make an ASGI application that answers with ``problem`` and closes the connection."""
    return answering_app(problem.status, msgspec.json.encode(problem), MEDIA_TYPE)


def answering_app(
    status: int, body: bytes, media_type: str, headers: Iterable[tuple[str, str]] = ()
) -> Any:
    """Make an ASGI application that sends a response, and closes the connection."""
    fields = [
        (b"content-type", media_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *((name.lower().encode(), value.encode()) for name, value in headers_of(status)),
        *((name.lower().encode(), value.encode()) for name, value in headers),
    ]

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    return app
