"""A probe: the question to a component whether it has executed a call whose answer was lost.

The question is a GET to the ``probe`` endpoint of the component, with the Idempotency-Key of the
call. `answer_of` reads the answer; docs/reference/configuration.md describes it for components.
"""

from __future__ import annotations

from enum import Enum
from typing import Union

import msgspec

from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import CallFailed

MAX_QUESTIONS = 10
FIRST_PAUSE_S = 0.5  # the pause doubles with each question, up to MAX_PAUSE_S
MAX_PAUSE_S = 30.0
_MAX_SHOWN = 60  # characters of a wrong value in a reason


class ProbeVerdict(str, Enum):
    """What a probe has found out about a call."""

    DONE = "done"
    NOT_DONE = "not-done"
    UNKNOWN = "unknown"

    def __init__(self, text: str) -> None:
        self.text = text


class Done(msgspec.Struct, frozen=True):
    """The component has executed the call, and answered with ``response``."""

    response: HttpResponse


class NotDone(msgspec.Struct, frozen=True):
    """The component has not executed the call, and will not."""


class Unknown(msgspec.Struct, frozen=True):
    """The component cannot say. To ask again is of no use. ``reason`` says why."""

    reason: str


class AskAgain(msgspec.Struct, frozen=True):
    """There is no answer yet. ``reason`` says why."""

    reason: str


Answer = Union[Done, NotDone, Unknown]


class _Reply(msgspec.Struct):
    state: str
    status: int = 200
    result: msgspec.Raw = msgspec.Raw(b'""')


def answer_of(response: HttpResponse | CallFailed) -> Answer | AskAgain:
    """What the answer to a question means.

    Only a 2xx answer with a known ``state`` decides. A 404 decides nothing, because it may come
    from a wrong path: if it counted as "not done", a call could be made twice.
    """
    if isinstance(response, CallFailed):
        return AskAgain(response.reason)
    status = response.status
    if status >= 500 or status in (408, 425, 429):
        return AskAgain(f"status {status}")
    if status >= 300:
        return Unknown(f"status {status}")
    try:
        reply = msgspec.json.decode(response.body, type=_Reply)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Unknown('the answer is not a JSON object with a "state"')
    return _done(reply) if reply.state == "done" else _not_done(reply.state)


def _not_done(state: str) -> Answer | AskAgain:
    """What a state other than ``done`` means."""
    known: dict[str, Answer | AskAgain] = {
        "not-done": NotDone(),
        "in-progress": AskAgain("the component is still executing the call"),
        "unknown": Unknown("the component does not know"),
    }
    return known.get(state) or Unknown(f'the state is "{state:.{_MAX_SHOWN}}"')


def _done(reply: _Reply) -> Done | Unknown:
    """A result that is a text is the body of the response. Any other JSON is the body as it is."""
    if not 200 <= reply.status <= 599:
        return Unknown(f"the status {reply.status} is not one of a final answer")
    body = bytes(reply.result)
    if body.startswith(b'"'):
        body = msgspec.json.decode(body, type=str).encode()
    return Done(HttpResponse(reply.status, b"", body))
