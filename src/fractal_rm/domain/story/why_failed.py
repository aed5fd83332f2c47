"""Why a step failed, in one or two sentences."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import StepFailed
from fractal_rm.domain.flow import Call
from fractal_rm.domain.story.null_references import null_references, why_null
from fractal_rm.domain.story.steps import Steps
from fractal_rm.domain.story.values import RunToTell
from fractal_rm.domain.story.words import count, cut, duration, sentence, upper

_TOO_MANY, _NOT_FOUND = 429, 404
_HINTS = {  # what a status says about where to look
    400: "The component does not accept what the step sends: compare the step with what the"
    " component expects",
    401: "The component does not accept the credentials: look at headers and token in"
    " components.conf",
    403: "The component does not allow this request: look at headers and token in components.conf",
    404: "The component has nothing at this address: compare the endpoint in components.conf",
    405: "The component does not take this method at this address: compare GET or POST in the flow",
    408: "The component waited too long for the request",
    413: "The component does not take a body of this size",
    415: "The component does not take a body of this form: look at the key body in components.conf",
    422: "The component does not accept the content of the body: compare the step with what the"
    " component expects",
    429: "The component wants to be called less often: give it a limit in components.conf",
}


def why_step_failed(
    cause: Cause | None, failed: StepFailed | None, told: RunToTell, steps: Steps
) -> str:
    """Why a run failed. ``failed`` is the last attempt of the step that ended it, if it is known.

    The reason of the run is used if no step is known.
    """
    if failed is None or cause is None:
        return sentence(cut(told.reason)) or "The reason was not recorded."
    say = _BY_CAUSE.get(cause)
    if say is None:
        return sentence(cut(told.reason or failed.reason))
    nulls = why_null(null_references(told, failed, steps), steps)
    return f"{say(failed, steps)}{nulls}{_attempts(failed, steps)}"


def _where(failed: StepFailed, steps: Steps) -> str:
    return steps.name(failed.step, failed.part)


def _who(failed: StepFailed, steps: Steps) -> str:
    return steps.component(failed.step) or "The component"


def _address(failed: StepFailed, steps: Steps) -> str:
    url = steps.url(failed.step, failed.part)
    return f" at {url}" if url else ""


def _status(failed: StepFailed, steps: Steps) -> str:
    answer = failed.answer
    who, where = _who(failed, steps), _where(failed, steps)
    if answer is UNSET:
        return f"{who} answered {where} with an error: {cut(failed.reason)}."
    text = f"{who} answered {where} with status {answer.status}"
    text += f": {cut(answer.body_start)}." if answer.body_start else "."
    if answer.location is not UNSET:
        text += f" It points to {answer.location}, and redirects are not followed: if the"
        return f"{text} component has moved, change its address in components.conf."
    if answer.status >= 500:
        hint = "The component itself has an error: look at its log"
    else:
        hint = _HINTS.get(answer.status, "")
    return f"{text} {hint}." if hint else text


def _not_expected(failed: StepFailed, steps: Steps) -> str:
    line = steps.line(failed.step)
    at = f" (line {line} of flows.conf, when the run began)" if line else ""
    text = (
        f"{_who(failed, steps)} answered, but not as the EXPECT of {_where(failed, steps)} demands"
    )
    if failed.answer is UNSET:
        return f"{text}{at}: {cut(failed.reason)}."
    body = f": {cut(failed.answer.body_start)}" if failed.answer.body_start else ""
    return f"{text}{at}. The answer was status {failed.answer.status}{body}."


def _connect(failed: StepFailed, steps: Steps) -> str:
    return (
        f"There was no connection to {_who(failed, steps)}{_address(failed, steps)} for"
        f" {_where(failed, steps)}: {cut(failed.reason)}. Nothing was sent, so the component did"
        " nothing. Is it running, and is this its address?"
    )


def _circuit_open(failed: StepFailed, steps: Steps) -> str:
    return (
        f"{upper(_where(failed, steps))} was not sent, because most of the calls to"
        f" {_who(failed, steps)} had failed before: {cut(failed.reason)}."
    )


def _timed_out(failed: StepFailed, steps: Steps) -> str:
    return (
        f"{_who(failed, steps)} did not answer {_where(failed, steps)} in time:"
        f" {cut(failed.reason)}.{_limit(failed, steps)} It may have done the work anyway."
    )


def _limit(failed: StepFailed, steps: Steps) -> str:
    """The time limit of a step, if the step itself has one."""
    step = steps.numbered(failed.step)
    options = step.options if isinstance(step, Call) and failed.part is UNSET else UNSET
    if options is UNSET or options.timeout_ms is None:
        return ""
    return f" The limit is TIMEOUT {duration(options.timeout_ms)} of this step."


def _bad_reply(failed: StepFailed, steps: Steps) -> str:
    return (
        f"The answer of {_who(failed, steps)} to {_where(failed, steps)} cannot be read:"
        f" {cut(failed.reason)}. The component may have done the work."
    )


def _too_large(failed: StepFailed, steps: Steps) -> str:
    return (
        f"The answer of {_who(failed, steps)} to {_where(failed, steps)} is too large:"
        f" {cut(failed.reason)}. The component has done the work. max_response_bytes in"
        " components.conf is the limit."
    )


def _call_failed(failed: StepFailed, steps: Steps) -> str:
    return (
        f"The call of {_where(failed, steps)}{_address(failed, steps)} failed:"
        f" {cut(failed.reason)}."
    )


def _publish(failed: StepFailed, steps: Steps) -> str:
    return (
        f"No broker took the message of {_where(failed, steps)}: {cut(failed.reason)}. Look at the"
        " broker, and at mqtt in comm.conf."
    )


def _sub_flow(failed: StepFailed, steps: Steps) -> str:
    return f"The run that {_where(failed, steps)} started did not succeed: {cut(failed.reason)}."


def _deadlock(failed: StepFailed, steps: Steps) -> str:
    return (
        f"{upper(_where(failed, steps))} would have waited forever: {cut(failed.reason)}. Raise"
        " the LIMIT of one of the flows, or start the other flow in another way."
    )


def _cannot_evaluate(failed: StepFailed, steps: Steps) -> str:
    return (
        f"Nothing was sent for {_where(failed, steps)}, because a value of the flow could not be"
        f" made: {cut(failed.reason)}. Compare the names in the flow"
        f"{_line(failed, steps)} with the payload and the earlier results: a field may be"
        " misspelt, or missing in this message."
    )


def _too_many(failed: StepFailed, steps: Steps) -> str:
    return (
        f"{upper(_where(failed, steps))} would read too many values: {cut(failed.reason)}. The"
        " limit is max_evaluated_values in comm.conf."
    )


def _not_configured(failed: StepFailed, steps: Steps) -> str:
    return (
        f"{upper(_where(failed, steps))} could not be made: {cut(failed.reason)}. The"
        " configuration was changed after the run had begun."
    )


def _line(failed: StepFailed, steps: Steps) -> str:
    line = steps.line(failed.step)
    return f" (line {line} of flows.conf, when the run began)" if line else ""


_BY_CAUSE: dict[Cause, Callable[[StepFailed, Steps], str]] = {
    Cause.STATUS: _status,
    Cause.NOT_EXPECTED: _not_expected,
    Cause.CONNECT_FAILED: _connect,
    Cause.CIRCUIT_OPEN: _circuit_open,
    Cause.TIMED_OUT: _timed_out,
    Cause.BAD_REPLY: _bad_reply,
    Cause.REPLY_TOO_LARGE: _too_large,
    Cause.CALL_FAILED: _call_failed,
    Cause.PUBLISH_FAILED: _publish,
    Cause.SUB_FLOW: _sub_flow,
    Cause.DEADLOCK: _deadlock,
    Cause.CANNOT_EVALUATE: _cannot_evaluate,
    Cause.TOO_MANY_VALUES: _too_many,
    Cause.NOT_CONFIGURED: _not_configured,
}


_RETRIED = (Cause.STATUS, Cause.TIMED_OUT, Cause.BAD_REPLY, Cause.CALL_FAILED)


def _attempts(failed: StepFailed, steps: Steps) -> str:
    """How often the step was tried, and why not more often."""
    number, cause = failed.attempt, failed.cause
    if number > 1:
        attempts = "Both attempts" if number == 2 else f"All {count(number, 'attempt')}"
        return f" {attempts} failed: this is the last failure."
    if cause not in _RETRIED or steps.component(failed.step) is None:
        return ""
    note, answer = steps.note(failed.step), failed.answer
    if note is not None and not note.idempotent:
        return (
            f" It was not tried again, because {_who(failed, steps)} must not be called twice"
            " (idempotent is false in components.conf)."
        )
    if answer is not UNSET and answer.status < 500 and answer.status not in (408, 425, _TOO_MANY):
        return " It was not tried again, because the same request would get the same answer."
    if steps.retry(failed.step) is None:
        return " It was not tried again, because the step has no RETRY."
    return ""
