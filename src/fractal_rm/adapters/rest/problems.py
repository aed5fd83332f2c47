"""Every error as problem details (RFC 9457), from one table: the exceptions themselves."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from fractal_rm.domain.errors import FractalError, Refused
from fractal_rm.engine.ports import Telemetry

MEDIA_TYPE = "application/problem+json"
LONGEST_DETAIL = 200  # characters: what was asked may be quoted in it, and may be of any length


class Problem(msgspec.Struct, omit_defaults=True):
    """``type`` is a name for programs; ``detail`` says what happened this time."""

    type: str
    title: str
    status: int
    detail: str = ""


class WrongHost(FractalError):
    """A request that a browser was tricked into sending here."""

    code = "wrong-host"


def problem(answer: Problem, headers: dict[str, str] | None = None) -> Response[Problem]:
    """Make a response."""
    return Response(answer, status_code=answer.status, media_type=MEDIA_TYPE, headers=headers)


def refused(telemetry: Telemetry) -> Any:
    """A trigger that is not taken. It leaves no fact, so the log is where it is seen."""

    def answer(_: Request[Any, Any, Any], error: Refused) -> Response[Problem]:
        telemetry.event("refused", code=error.code, reason=error.reason)
        return _refused(error)

    return answer


def _refused(error: Refused) -> Response[Problem]:
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}
    if error.status == 413:
        headers["Connection"] = "close"  # the rest of the body is not read
    kind = f"urn:fractal-rm:{error.code}"
    return problem(Problem(kind, error.title, error.status, error.reason), headers)


def wrong_host(_: Request[Any, Any, Any], error: WrongHost) -> Response[Problem]:
    """RFC 9110, 15.5.20."""
    return problem(Problem("urn:fractal-rm:wrong-host", "This is not for us", 421, error.reason))


def http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    """What the framework finds: no such path, a method that is not allowed, a bad parameter."""
    title = {404: "There is nothing here", 405: "This method is not allowed here"}.get(
        error.status_code, "The request cannot be answered"
    )
    headers = {n: v for n, v in (error.headers or {}).items() if n.lower() == "allow"}
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


def broken(telemetry: Telemetry) -> Any:
    """A fault of ours: the caller learns that it is one, the log learns which."""

    def answer(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
        telemetry.problem("request_broke", path=request.url.path, exc_info=error)
        title = "A fault in the Runtime Manager"
        return problem(Problem("urn:fractal-rm:internal", title, 500, "see the log of the node"))

    return answer


class HostCheck:
    """A page in a browser on this machine must not be able to start runs (DNS rebinding, CSRF)."""

    def __init__(self, own: str) -> None:
        self._allowed = {"localhost", "127.0.0.1", "::1", own.lower()}

    def __call__(self, request: Request[Any, Any, Any]) -> None:
        """Raise WrongHost where Host, or Origin if there is one, names somebody else."""
        for name, value in (
            ("Host", "//" + request.headers.get("host", "localhost")),
            ("Origin", request.headers.get("origin", "//localhost")),
        ):
            if (_hostname(value) or "") not in self._allowed:
                raise WrongHost(f"{name} names another machine")


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
