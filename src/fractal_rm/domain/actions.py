"""What operators can do with runs, dead letters and flows.

Commands, the HTTP API and pages build these values; `engine.actions` does what they say. Each
action can be repeated safely: the same request id gives the same result again.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Union

import msgspec

from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State


class Action(msgspec.Struct, frozen=True, tag_field="action", forbid_unknown_fields=True):
    """Something that an operator asks for."""


class Cancel(Action, frozen=True, tag="cancel"):
    """End an open run as cancelled. ``cut`` and ``undo`` are those of `facts.CancelRequested`."""

    run: str
    cut: bool = False
    undo: bool = True


class Definition(Enum):
    """Which definition of the flow a repeated run gets."""

    RECORDED = "recorded"  # the one with which the run began
    CURRENT = "current"  # the one in flows.conf now


class Replay(Action, frozen=True, tag="replay"):
    """Repeat an ended run as a new run, with the same payload.

    ``from_step``: the results of earlier steps are taken from the ended run. ``again``: also if the
    run has been repeated or discarded before.
    """

    run: str
    definition: Definition = Definition.RECORDED
    from_step: int | None = None
    again: bool = False


class DecideStep(Action, frozen=True, tag="decide-step"):
    """Continue a run that ended as unknown, as a new run.

    ``done``: the step in doubt was done, and its result is ``result``; the new run begins after it.
    Otherwise the step was not done, and the new run repeats it.
    """

    run: str
    done: bool
    result: msgspec.Raw = msgspec.Raw(b"null")
    again: bool = False


class DecideOffer(Action, frozen=True, tag="decide-offer"):
    """Decide a run that another node may have."""

    run: str
    decision: Decision


class Send(Action, frozen=True, tag="send"):
    """Send the message of a dead letter again, as a new trigger.

    ``body``: send this instead of the stored message. ``again`` is as in `Replay`.
    """

    run: str
    body: bytes | None = None
    again: bool = False


class Discard(Action, frozen=True, tag="discard"):
    """Mark an ended run or a dead letter: it needs no more attention. It stays in the history."""

    run: str
    note: str = ""


class Release(Action, frozen=True, tag="release"):
    """Resume a parked run."""

    run: str


class PauseFlow(Action, frozen=True, tag="pause-flow"):
    """Begin no more runs of a flow. Its triggers are accepted and wait."""

    flow: str


class ResumeFlow(Action, frozen=True, tag="resume-flow"):
    """End the pause of a flow."""

    flow: str


RunAction = Union[Cancel, Replay, DecideStep, DecideOffer, Send, Discard, Release]
AnyAction = Union[RunAction, PauseFlow, ResumeFlow]
# Actions that can be done on all runs of a filter. Their ``run`` is empty in a `BulkRequest`.
BulkAction = Union[Cancel, Replay, Send, Discard, Release]


class ActionRequest(msgspec.Struct, frozen=True):
    """An action, who asks for it (such as ``root`` or ``token line-3``), and the request id."""

    action: AnyAction
    actor: str
    request_id: str


class BulkRequest(msgspec.Struct, frozen=True):
    """An action on all runs that match ``filter``, the oldest first.

    ``expect``: the number of runs that the operator has seen. If the number has changed by more
    than a tenth, nothing is done.
    """

    action: BulkAction
    filter: RunFilter
    expect: int
    actor: str
    request_id: str


class ActionDone(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an action has done; it is durable.

    ``run`` is the run that was acted on, and ``state`` its state now. A run that is being cancelled
    may still be ``running``. ``new_run`` is the run that a `Replay`, `DecideStep` or `Send` made.
    ``repeated``: the same request was done before, and this is its result. ``flow_changed``: a
    `Replay` has used the definition with which the run began, and flows.conf has another one now.
    """

    run: str = ""
    state: State | None = None
    new_run: str | None = None
    flow: str | None = None
    repeated: bool = False
    flow_changed: bool = False


class ActionRefused(FractalError):
    """An action was not done. The text says why, and what can be done instead.

    ``run``, ``state`` and ``node`` describe the run as it is, as far as they are known.
    """

    code = "action-refused"
    status: ClassVar[int] = 409
    title: ClassVar[str] = "The action is not possible now"

    def __init__(
        self,
        reason: str,
        *,
        run: str | None = None,
        state: State | None = None,
        node: str | None = None,
        new_run: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.run, self.state, self.node, self.new_run = run, state, node, new_run


class NoSuchTarget(ActionRefused):
    """There is no such run, dead letter or flow."""

    code = "no-such-target"
    status = 404
    title = "There is no such run or flow"


class WrongState(ActionRefused):
    """The action is not possible in the state of the run."""

    code = "wrong-state"


class AlreadyHandled(ActionRefused):
    """The run was repeated or discarded before; ``again`` is not set."""

    code = "already-handled"


class AtOtherNode(ActionRefused):
    """Another node has the run."""

    code = "at-other-node"


class NoLongerKept(ActionRefused):
    """The history has no payload or no facts of the run any more."""

    code = "no-longer-kept"
    status = 410
    title = "What this action needs is no longer kept"


class NotPossible(ActionRefused):
    """The request itself is wrong, such as a step that the flow does not have."""

    code = "not-possible"
    status = 422
    title = "The request is not possible"


class CountChanged(ActionRefused):
    """The number of runs that match a filter has changed by more than a tenth."""

    code = "count-changed"


class CannotActNow(ActionRefused):
    """The journal is blocked, or the process that has the run does not run."""

    code = "cannot-act-now"
    status = 503
    title = "The action cannot be done now"
