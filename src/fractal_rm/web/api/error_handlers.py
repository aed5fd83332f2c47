"""Maps exceptions of the API to problem details."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException
from msgspec import UNSET

from fractal_rm.domain.actions import ActionRefused
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.handoff.messages import CODE_PREFIX
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.pairing import PairingRefused
from fractal_rm.domain.refusals import Refused
from fractal_rm.engine.ports import Telemetry, WrongCursor
from fractal_rm.web.api.action_requests import Changed
from fractal_rm.web.api.query import BadParameter
from fractal_rm.web.problems import MEDIA_TYPE, ActionProblem, Problem, headers_of

MAX_DETAIL = 400  # in characters: a detail may quote a long part of the request


def make_error_handlers(telemetry: Telemetry) -> dict[Any, Any]:
    """Return a handler for every exception that a route may raise."""
    return {
        Refused: _trigger_refused(telemetry),
        HTTPException: _http_error,
        PairingRefused: _pairing_refused,
        ActionRefused: _action_refused,
        BadParameter: _bad_parameter,
        WrongCursor: _wrong_cursor,
        Changed: _changed,
        FractalError: _cannot_answer(telemetry),
        JournalError: _journal_unreadable(telemetry),
        Exception: _internal_error(telemetry),
    }


def _response(problem: Problem, headers: dict[str, str] | None = None) -> Response[Problem]:
    return Response(problem, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def _trigger_refused(telemetry: Telemetry) -> Any:
    """The handler for refused triggers. It logs each refusal, because no journal has it."""

    def handle(_: Request[Any, Any, Any], error: Refused) -> Response[Problem]:
        telemetry.event("refused", code=error.code, reason=error.reason)
        headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}
        kind = CODE_PREFIX + error.code
        run, epoch = error.refused_offer or ("", 0)
        problem = Problem(kind, error.title, error.status, error.reason, run, epoch)
        return _response(problem, headers)

    return handle


def _pairing_refused(_: Request[Any, Any, Any], error: PairingRefused) -> Response[Problem]:
    kind = CODE_PREFIX + error.code
    return _response(Problem(kind, "The nodes cannot be joined", error.status, error.reason))


def _action_refused(_: Request[Any, Any, Any], error: ActionRefused) -> Response[ActionProblem]:
    """The handler for an action that was not done: 409 with the state as it is, and others."""
    problem = ActionProblem(
        CODE_PREFIX + error.code,
        error.title,
        error.status,
        error.reason,
        run=error.run or "",
        state=error.state or UNSET,
        node=error.node or UNSET,
        new_run=error.new_run or UNSET,
    )
    headers = dict(headers_of(error.status))
    return Response(problem, status_code=error.status, media_type=MEDIA_TYPE, headers=headers)


def _bad_parameter(_: Request[Any, Any, Any], error: BadParameter) -> Response[Problem]:
    kind, detail = CODE_PREFIX + error.code, _shortened(error.reason)
    return _response(Problem(kind, "A parameter of the request is not valid", 400, detail))


def _wrong_cursor(_: Request[Any, Any, Any], error: WrongCursor) -> Response[Problem]:
    kind, detail = CODE_PREFIX + error.code, _shortened(f"cursor: {error.reason}")
    return _response(Problem(kind, "The cursor is not valid", 400, detail))


def _changed(_: Request[Any, Any, Any], error: Changed) -> Response[Problem]:
    return _response(Problem(CODE_PREFIX + error.code, "It has changed", 412, error.reason))


def _cannot_answer(telemetry: Telemetry) -> Any:
    """The handler for other errors of this program. For example, another process is silent."""

    def handle(request: Request[Any, Any, Any], error: FractalError) -> Response[Problem]:
        telemetry.problem("request_not_done", path=request.url.path, reason=error.reason)
        kind, title = CODE_PREFIX + error.code, "The request cannot be done now"
        return _response(Problem(kind, title, 503, error.reason), dict(headers_of(503)))

    return handle


def _shortened(detail: str) -> str:
    return detail if len(detail) <= MAX_DETAIL else detail[:MAX_DETAIL] + "…"


def _http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    """Answer an error that the framework found, such as an unknown path or a wrong method."""
    title = {404: "Not found", 405: "Method not allowed"}.get(
        error.status_code, "The request cannot be answered"
    )
    # HEAD is allowed wherever GET is; see `head_as_get`.
    allowed = (error.headers or {}).get("allow", "").replace("GET", "GET, HEAD")
    headers = {"Allow": ", ".join(sorted(allowed.split(", ")))} if allowed else {}
    detail = _shortened(error.detail)
    return _response(Problem("about:blank", title, error.status_code, detail), headers)


def _journal_unreadable(telemetry: Telemetry) -> Any:
    """The handler for an unreadable journal in the state folder. It logs the error.

    The journal may be that of another process.
    """

    def handle(_: Request[Any, Any, Any], error: JournalError) -> Response[Problem]:
        telemetry.problem("journal_unreadable", code=error.code, reason=str(error))
        kind, title = CODE_PREFIX + error.code, "A journal cannot be read"
        return _response(Problem(kind, title, 500, str(error)))

    return handle


def _internal_error(telemetry: Telemetry) -> Any:
    """The handler for a fault of this program. It logs the traceback, and does not send it."""

    def handle(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
        telemetry.problem("request_failed", path=request.url.path, exc_info=error)
        title = "A fault in the Runtime Manager"
        return _response(Problem(CODE_PREFIX + "internal", title, 500, "see the log of the node"))

    return handle
