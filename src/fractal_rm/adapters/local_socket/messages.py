"""The messages of the local socket.

A connection has one request, and one or more answers. Each message is one line of JSON. The last
answer is the one for which `is_last` is true.
"""

from __future__ import annotations

from typing import Union

import msgspec

from fractal_rm.domain import actions
from fractal_rm.domain.actions import ActionDone, ActionRefused, AnyAction, BulkAction
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.run import Outcome
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State
from fractal_rm.engine.ports.actions import BulkProgress

# The maximum size of a request. Its largest part is the new body of a dead letter, in base64.
MAX_REQUEST_BYTES = 4 * 1024 * 1024
MAX_WAIT_S = 3600.0


class Request(msgspec.Struct, frozen=True, tag_field="request", omit_defaults=True, kw_only=True):
    """What a command asks.

    ``sudo_user`` is the user who has called the command with sudo. ``on_behalf_of``: another
    process of the node sends this request; it has checked who asks for it.
    """

    sudo_user: str = ""
    on_behalf_of: str = ""


class Act(Request, frozen=True, tag="act", kw_only=True):
    """Do one action in this process. Answers: `Done` or `Refused`."""

    action: AnyAction
    request_id: str


class ActOnAll(Request, frozen=True, tag="act-on-all", kw_only=True):
    """Do an action on all runs of a filter. Answers: several `Progress`, or `Refused`."""

    action: BulkAction
    filter: RunFilter
    expect: int
    request_id: str


class AwaitEnd(Request, frozen=True, tag="await-end", kw_only=True):
    """Wait at most ``within_s`` for the end of an open run of this process. Answer: `Ended`."""

    run: str
    within_s: float


class AskStatus(Request, frozen=True, tag="status", kw_only=True):
    """Ask what the process does now. Answer: `StatusIs`."""


class SetLogLevel(Request, frozen=True, tag="log-level", kw_only=True):
    """Change the level of the log until the process ends. Answer: `LevelIs`."""

    level: str


class StartRun(Request, frozen=True, tag="start-run", kw_only=True):
    """Start a run of a flow. ``payload`` is JSON. Answers: `Started` or `Refused`.

    A second request with the same ``request_id`` gets the same run.
    """

    flow: str
    payload: msgspec.Raw
    request_id: str


AnyRequest = Union[Act, ActOnAll, AwaitEnd, AskStatus, SetLogLevel, StartRun]


class Answer(msgspec.Struct, frozen=True, tag_field="answer", omit_defaults=True):
    """What the process answers."""


class Done(Answer, frozen=True, tag="done"):
    """An action was done."""

    done: ActionDone


class Refused(Answer, frozen=True, tag="refused"):
    """Nothing was done. ``code`` is that of the error; see also `ActionRefused`."""

    code: str
    reason: str
    run: str | None = None
    state: State | None = None
    node: str | None = None
    new_run: str | None = None


class Progress(Answer, frozen=True, tag="progress"):
    """How far an action on many runs is."""

    progress: BulkProgress


class EndedRun(msgspec.Struct, frozen=True):
    """How a run ended; see `Outcome`."""

    run: str
    state: State
    reason: str
    results: tuple[msgspec.Raw, ...]
    reply: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Ended(Answer, frozen=True, tag="ended"):
    """How a run ended. None: it did not end in time, or the process does not have it."""

    outcome: EndedRun | None

    @classmethod
    def of(cls, outcome: Outcome | None) -> Ended:
        """The message for an outcome."""
        if outcome is None:
            return Ended(None)
        reply = msgspec.UNSET if outcome.reply is None else outcome.reply
        return Ended(EndedRun(outcome.run, outcome.state, outcome.reason, outcome.results, reply))


class StatusIs(Answer, frozen=True, tag="status"):
    """What the process does now."""

    status: NodeStatus


class LevelIs(Answer, frozen=True, tag="log-level"):
    """The level of the log was changed."""

    level: str


class Started(Answer, frozen=True, tag="started"):
    """A run has started, and is durable. ``duplicate``: an earlier request had started it."""

    run: str
    duplicate: bool = False


class NotUnderstood(Answer, frozen=True, tag="not-understood"):
    """The request cannot be read, or this process cannot answer now."""

    reason: str


AnyAnswer = Union[Done, Refused, Progress, Ended, StatusIs, LevelIs, Started, NotUnderstood]


def is_last(answer: AnyAnswer) -> bool:
    """Whether no answer follows."""
    return not isinstance(answer, Progress) or answer.progress.finished


_REFUSALS = {
    each.code: each
    for each in (
        actions.NoSuchTarget,
        actions.WrongState,
        actions.AlreadyHandled,
        actions.AtOtherNode,
        actions.NoLongerKept,
        actions.NotPossible,
        actions.CountChanged,
        actions.CannotActNow,
    )
}


def refused(error: ActionRefused) -> Refused:
    """The message for a refused action."""
    return Refused(error.code, error.reason, error.run, error.state, error.node, error.new_run)


def refusal_in(answer: Refused) -> ActionRefused:
    """The error that a message stands for. A code of a later release becomes an ActionRefused."""
    kind = _REFUSALS.get(answer.code, ActionRefused)
    return kind(
        answer.reason,
        run=answer.run,
        state=answer.state,
        node=answer.node,
        new_run=answer.new_run,
    )
