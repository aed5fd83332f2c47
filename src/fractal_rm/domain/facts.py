"""Facts: what happened to a run, and nothing of what it means for the run (`domain.run`).

They are kept for ever, on the disk and wherever else a journal is read, so fields are only added.
"""

from __future__ import annotations

from typing import Union

import msgspec
from msgspec import UNSET

from fractal_rm.domain.cause import Answered, Cause
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.state import State


# They come by the thousand and hold no cycles, so nobody need look for some in them.
class Fact(msgspec.Struct, frozen=True, tag_field="fact", gc=False):
    """Something that happened to a run.

    Where a ``reason`` says why, in words for people, ``cause`` says it for programs; it is not set
    in facts of older releases.
    """


class Accepted(Fact, frozen=True, tag="accepted"):
    """The trigger is ours. ``flow`` and ``version`` name the flow as it was at this moment.

    ``budget_ms``: how long from now it is worth something. ``origin``: the run and the step that
    it is a part of. ``reply_topic`` and ``correlation`` (MQTT 5, 4.10): where its end is told.
    ``ahead_ms``: how far the steady clock is ahead of the wall clock, where they do not agree.
    ``node``: the node that has taken it; older releases have not written it.
    """

    flow: str
    version: str
    payload: msgspec.Raw
    source: str
    placed: bool = False
    key: str | None = None
    budget_ms: int | msgspec.UnsetType = UNSET
    origin: str | msgspec.UnsetType = UNSET
    reply_topic: str | msgspec.UnsetType = UNSET
    correlation: bytes | msgspec.UnsetType = UNSET
    traceparent: str | msgspec.UnsetType = UNSET
    ahead_ms: int | msgspec.UnsetType = UNSET
    node: str | msgspec.UnsetType = UNSET


class Received(Fact, frozen=True, tag="received"):
    """It came as a hand-off from one of our own peers, ``sender``; empty: it had no id."""

    sender: str
    epoch: int


class Placed(Fact, frozen=True, tag="placed"):
    """Where it is to run and why: on the node that has taken it, or on another.

    ``node`` is None for the one that has taken it, where `Accepted` does not name that.
    ``maybe_twice``: the node that it was offered to before may have executed it as well.
    ``named`` is the node that the balancer named, where the run does not go there. ``status`` is
    what the node answered that it was offered to before.
    """

    node: str | None
    reason: str
    maybe_twice: bool | msgspec.UnsetType = UNSET
    cause: Cause | msgspec.UnsetType = UNSET
    named: str | msgspec.UnsetType = UNSET
    status: int | msgspec.UnsetType = UNSET


class Offered(Fact, frozen=True, tag="offered"):
    """It is about to be offered to a peer; ``epoch`` names this offer.

    ``ours`` says that the peer was known to be one of ours, which remembers what it took.
    """

    node: str
    epoch: int
    ours: bool = False


class Begun(Fact, frozen=True, tag="begun"):
    """It is about to run again after a crash: its ``attempt``-th time, counted from 1."""

    attempt: int


class Started(Fact, frozen=True, tag="started"):
    """The request of a step is about to leave. ``attempt`` counts from 1.

    ``part`` names the request where it is not the one of its step: see `name_of`.
    """

    step: int
    attempt: int = 1
    part: str | msgspec.UnsetType = UNSET


class Finished(Fact, frozen=True, tag="finished"):
    """A step has its result: the response text as a JSON string; null for a call that was skipped.

    That of a RUN is the reply of the other run, whatever JSON that is. ``status`` is 0 where there
    was no answer. ``headers``, names in lower case, are written where the flow asks for the head
    of this answer, and only those that it asks for. ``data`` is the result where it is bytes, and
    ``result`` is null then.
    """

    step: int
    status: int
    took_ms: float
    result: msgspec.Raw
    headers: dict[str, str] | msgspec.UnsetType = UNSET
    data: bytes | msgspec.UnsetType = msgspec.field(default=UNSET, name="base64")


class ElementFinished(Fact, frozen=True, tag="element-finished"):
    """The call for one element of a FOREACH has its result. ``element`` counts from 1.

    ``result`` and ``data`` are as in `Finished`.
    """

    step: int
    element: int
    status: int
    took_ms: float
    result: msgspec.Raw
    data: bytes | msgspec.UnsetType = msgspec.field(default=UNSET, name="base64")


class StepFailed(Fact, frozen=True, tag="step-failed"):
    """An attempt of a step failed. ``part`` is as in `Started`; a PUBLISH has the step 0.

    ``again`` is when the next attempt is due; ``final`` says that there will be none. The attempt 0
    stands for a step that ended the run without one; ``unknown``: what it has done is not known.
    ``answer`` is what came, where something did.
    """

    step: int
    attempt: int
    reason: str
    part: str | msgspec.UnsetType = UNSET
    again: Moment | msgspec.UnsetType = UNSET
    final: bool | msgspec.UnsetType = UNSET
    unknown: bool | msgspec.UnsetType = UNSET
    cause: Cause | msgspec.UnsetType = UNSET
    answer: Answered | msgspec.UnsetType = UNSET


class Waiting(Fact, frozen=True, tag="waiting"):
    """A WAIT has begun, and when it ends. ``position`` counts the flow's steps from 0."""

    position: int
    until: Moment


class Passed(Fact, frozen=True, tag="passed"):
    """A step without a number is done, or was skipped: a WAIT, a PUBLISH, a REPLY.

    ``reply`` is what a REPLY says, as JSON. ``position`` counts the flow's steps from 0. ``data``
    is what it says where that is bytes, and ``reply`` is null then.
    """

    position: int
    reply: msgspec.Raw | msgspec.UnsetType = UNSET
    data: bytes | msgspec.UnsetType = msgspec.field(default=UNSET, name="base64")


class Stopping(Fact, frozen=True, tag="stopping"):
    """The run is going to end so; first what its finished steps did is undone."""

    state: State
    reason: str
    cause: Cause | msgspec.UnsetType = UNSET


class Undone(Fact, frozen=True, tag="undone"):
    """The UNDO of a finished step was answered."""

    step: int
    status: int
    took_ms: float


class Parked(Fact, frozen=True, tag="parked"):
    """It waits for a person, and why."""

    reason: str
    cause: Cause | msgspec.UnsetType = UNSET


class Released(Fact, frozen=True, tag="released"):
    """A person let a parked run go on."""


class Replying(Fact, frozen=True, tag="replying"):
    """It has ended so; what is left is to tell it at the response topic of its sender."""

    state: State
    reason: str = ""
    cause: Cause | msgspec.UnsetType = UNSET


class Settled(Fact, frozen=True, tag="settled"):
    """How it ended, and why. Where that needs no reason, the one for its place stays.

    ``status`` is what the node answered that it was offered to.
    """

    state: State
    reason: str = ""
    cause: Cause | msgspec.UnsetType = UNSET
    status: int | msgspec.UnsetType = UNSET


class Dead(Fact, frozen=True, tag="dead"):
    """Set aside. For what never became a run, ``body`` is what came, shortened to a bound.

    ``code`` is the cause as text, also where only a later release knows it.
    """

    code: str
    reason: str
    source: str = ""
    body: bytes = b""

    @property
    def cause(self) -> Cause:
        """Why, for programs."""
        return Cause(self.code)


AnyFact = Union[
    Accepted, Received, Placed, Offered, Begun, Started, Finished, ElementFinished, StepFailed,
    Waiting, Passed, Stopping, Undone, Parked, Released, Replying,
    Settled, Dead,
]  # fmt: skip


def name_of(step: int, part: str | msgspec.UnsetType = UNSET) -> str:
    """The name of a request in its run, as it ends its Idempotency-Key.

    ``3``; ``3.2`` for the second element of a FOREACH; ``undo.3``. The message of a PUBLISH is
    named by the position of its step: ``@4``.
    """
    return str(step) if part is UNSET else part


def undo_name(step: int) -> str:
    """The name of the request that undoes a step."""
    return f"undo.{step}"


def fault(error: Exception) -> Dead:
    """How a run ends that a fault of this program keeps from going on."""
    return Dead(Cause.INTERNAL.text, f"a fault in the Runtime Manager: {error!r}")


def parent_of(first: Fact) -> str | None:
    """The id of the run that a run is a part of, by its first fact; None: it is a whole."""
    origin = first.origin if isinstance(first, Accepted) else UNSET
    return None if origin is UNSET else origin.rpartition(":")[0]
