"""Every error as problem details (RFC 9457), from one table: the exceptions themselves."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.refusals import Refused
from fractal_rm.engine.ports import Telemetry

MEDIA_TYPE = "application/problem+json"
LONGEST_DETAIL = 200  # characters: what was asked may be quoted in it, and may be of any length


class Problem(msgspec.Struct, omit_defaults=True):
    """``type`` is a name for programs; ``detail`` says what happened this time."""

    type: str
    title: str
    status: int
    detail: str = ""


def problem(answer: Problem, headers: dict[str, str] | None = None) -> Response[Problem]:
    """Make a response."""
    return Response(answer, status_code=answer.status, media_type=MEDIA_TYPE, headers=headers)


def in_full(answer: Problem) -> bytes:
    """A whole response, for what is answered before there is a request to answer."""
    body = msgspec.json.encode(answer)
    retry = "Retry-After: 1\r\n" if answer.status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    head = (
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
        f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n{retry}"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


def always(answer: Problem) -> Any:
    """An application that answers every request so, and closes."""
    body = msgspec.json.encode(answer)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def refused(telemetry: Telemetry) -> Any:
    """A trigger that is not taken. It leaves no fact, so the log is where it is seen."""

    def answer(_: Request[Any, Any, Any], error: Refused) -> Response[Problem]:
        telemetry.event("refused", code=error.code, reason=error.reason)
        return _refused(error)

    return answer


def _refused(error: Refused) -> Response[Problem]:
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}
    kind = f"urn:fractal-rm:{error.code}"
    return problem(Problem(kind, error.title, error.status, error.reason), headers)


def http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    """What the framework finds: no such path, a method that is not allowed, a bad parameter."""
    title = {404: "There is nothing here", 405: "This method is not allowed here"}.get(
        error.status_code, "The request cannot be answered"
    )
    allowed = (error.headers or {}).get("allow", "").replace("GET", "GET, HEAD")  # head_as_get
    headers = {"Allow": allowed} if allowed else {}
    is_parameter = isinstance(error, ValidationException)
    detail = _bad_parameters(request, error) if is_parameter else error.detail
    shown = detail if len(detail) <= LONGEST_DETAIL else detail[:LONGEST_DETAIL] + "…"
    return problem(Problem("about:blank", title, error.status_code, shown), headers)


def _bad_parameters(request: Request[Any, Any, Any], error: HTTPException) -> str:
    """Each parameter, by the name that it was sent under, and what is wrong with it."""
    known = request.route_handler.parsed_fn_signature.parameters

    def sent_as(name: str) -> str:
        # The framework reserves some names, so a handler's own may differ: `in_state` for `state`.
        defined = known[name].kwarg_definition if name in known else None
        return getattr(defined, "query", None) or name

    found: list[Any] = error.extra if isinstance(error.extra, list) else []
    said = [f"{sent_as(each.get('key', ''))}: {each.get('message', '')}" for each in found]
    return "; ".join(said) or error.detail


def unreadable(telemetry: Telemetry) -> Any:
    """A journal of the state folder, which may be another process's, cannot be read."""

    def answer(_: Request[Any, Any, Any], error: JournalError) -> Response[Problem]:
        telemetry.problem("journal_unread", code=error.code, reason=str(error))
        kind, title = f"urn:fractal-rm:{error.code}", "A journal cannot be read"
        return problem(Problem(kind, title, 500, str(error)))

    return answer


def broken(telemetry: Telemetry) -> Any:
    """A fault of ours: the caller learns that it is one, the log learns which."""

    def answer(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
        telemetry.problem("request_broke", path=request.url.path, exc_info=error)
        title = "A fault in the Runtime Manager"
        return problem(Problem("urn:fractal-rm:internal", title, 500, "see the log of the node"))

    return answer
