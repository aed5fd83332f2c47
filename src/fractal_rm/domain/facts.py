"""Facts: what happened to a run. What they mean for the run is in `domain.run`.

Facts stay on the disk, where later releases read them, so fields are only added.
"""

from __future__ import annotations

from typing import Union

import msgspec
from msgspec import UNSET

from fractal_rm.domain.cause import Cause, ResponseExcerpt
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.state import State


# There are thousands, without reference cycles, so the garbage collector need not track them.
class Fact(msgspec.Struct, frozen=True, tag_field="fact", gc=False):
    """Something that happened to a run.

    ``reason`` says why, for people, and ``cause`` says it for programs. Facts of older releases
    have no cause.
    """


class Accepted(Fact, frozen=True, tag="accepted"):
    """A trigger was accepted. ``flow`` and ``version`` identify the flow as it was then.

    ``budget_ms``: the time from then within which the run must end. ``origin``: the run and step
    that began this run. ``reply_topic`` and ``correlation`` (MQTT 5, 4.10): where the outcome is
    published. ``ahead_ms``: how far the steady clock is ahead of the wall clock, if they differ.
    ``node``: the node that accepted it; older releases did not write it.
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
    """The run was handed off by ``sender``, a node of this program; empty if it has no id."""

    sender: str
    epoch: int


class Placed(Fact, frozen=True, tag="placed"):
    """Where the run is to be executed and why: on the node that accepted it, or on another.

    ``node`` is None for the node that accepted it, if `Accepted` does not name that node.
    ``maybe_twice``: the node that it was offered to before may have executed it, too. ``status`` is
    the HTTP status with which that node answered the offer. ``named`` is the node that the balancer
    named, if the run goes to another one.
    """

    node: str | None
    reason: str
    maybe_twice: bool | msgspec.UnsetType = UNSET
    cause: Cause | msgspec.UnsetType = UNSET
    named: str | msgspec.UnsetType = UNSET
    status: int | msgspec.UnsetType = UNSET


class Offered(Fact, frozen=True, tag="offered"):
    """The run is about to be offered to a peer; ``epoch`` identifies this offer.

    ``ours``: the peer was known to be a node of this program, which remembers the runs it accepted.
    """

    node: str
    epoch: int
    ours: bool = False


class Restarted(Fact, frozen=True, tag="begun"):
    """The run is about to be executed again after a crash. ``attempt`` counts executions from 1."""

    attempt: int


class RequestStarted(Fact, frozen=True, tag="started"):
    """A request of a step is about to be sent. ``attempt`` counts from 1.

    ``part`` names the request if it is for an element or an undo: see `request_name`.
    """

    step: int
    attempt: int = 1
    part: str | msgspec.UnsetType = UNSET


class Finished(Fact, frozen=True, tag="finished"):
    """A step has its result: the response text as a JSON string; null for a skipped call.

    The result of a RUN is the reply of the child run, which may be any JSON. ``status`` is 0 if
    there was no response. ``headers`` are those that the flow refers to, names in lower case; unset
    if it refers to neither headers nor status. ``data`` is a result that is bytes; ``result`` is
    null then.
    """

    step: int
    status: int
    took_ms: float
    result: msgspec.Raw
    headers: dict[str, str] | msgspec.UnsetType = UNSET
    data: bytes | msgspec.UnsetType = msgspec.field(default=UNSET, name="base64")


class ElementFinished(Fact, frozen=True, tag="element-finished"):
    """The call for one element of a FOREACH has its result. ``element`` counts from 1.

    ``result`` and ``data``: see `Finished`.
    """

    step: int
    element: int
    status: int
    took_ms: float
    result: msgspec.Raw
    data: bytes | msgspec.UnsetType = msgspec.field(default=UNSET, name="base64")


class StepFailed(Fact, frozen=True, tag="step-failed"):
    """An attempt of a step failed. ``part``: see `RequestStarted`. ``step`` is 0 for a PUBLISH.

    ``again`` is when the next attempt is due; ``final``: there is no next attempt. ``attempt`` is 0
    for a step that ended the run without an attempt; ``unknown``: the effect of the step is not
    known. ``answer`` is the response, if there was one.
    """

    step: int
    attempt: int
    reason: str
    part: str | msgspec.UnsetType = UNSET
    again: Moment | msgspec.UnsetType = UNSET
    final: bool | msgspec.UnsetType = UNSET
    unknown: bool | msgspec.UnsetType = UNSET
    cause: Cause | msgspec.UnsetType = UNSET
    answer: ResponseExcerpt | msgspec.UnsetType = UNSET


class WaitStarted(Fact, frozen=True, tag="waiting"):
    """A WAIT has begun, and when it ends. ``position`` counts the flow's steps from 0."""

    position: int
    until: Moment


class StepPassed(Fact, frozen=True, tag="passed"):
    """A step without a number is done or was skipped: a WAIT, a PUBLISH, a REPLY.

    ``position`` counts the flow's steps from 0. ``reply`` is the content of a REPLY as JSON.
    ``data`` is a content that is bytes; ``reply`` is null then.
    """

    position: int
    reply: msgspec.Raw | msgspec.UnsetType = UNSET
    data: bytes | msgspec.UnsetType = msgspec.field(default=UNSET, name="base64")


class Stopping(Fact, frozen=True, tag="stopping"):
    """A step has failed: the finished steps are undone, then the run ends in ``state``."""

    state: State
    reason: str
    cause: Cause | msgspec.UnsetType = UNSET


class StepUndone(Fact, frozen=True, tag="undone"):
    """The UNDO of a finished step succeeded."""

    step: int
    status: int
    took_ms: float


class Parked(Fact, frozen=True, tag="parked"):
    """The run waits for a decision of a person."""

    reason: str
    cause: Cause | msgspec.UnsetType = UNSET


class Released(Fact, frozen=True, tag="released"):
    """A person released a parked run: it continues."""


class Replying(Fact, frozen=True, tag="replying"):
    """The run has ended in ``state``; the outcome is still to be published to its sender."""

    state: State
    reason: str = ""
    cause: Cause | msgspec.UnsetType = UNSET


class Settled(Fact, frozen=True, tag="settled"):
    """The run has ended. Without a ``reason`` the run keeps the reason for its placement.

    ``status`` is the HTTP status with which a node answered the offer of the run.
    """

    state: State
    reason: str = ""
    cause: Cause | msgspec.UnsetType = UNSET
    status: int | msgspec.UnsetType = UNSET


class Dead(Fact, frozen=True, tag="dead"):
    """A run was set aside, or a message that never became a run: a dead letter.

    ``body`` is the message, cut to a maximum length. ``code`` is the cause as text, also if only
    a later release knows the cause.
    """

    code: str
    reason: str
    source: str = ""
    body: bytes = b""

    @property
    def cause(self) -> Cause:
        """``code`` as a cause."""
        return Cause(self.code)


AnyFact = Union[
    Accepted, Received, Placed, Offered, Restarted, RequestStarted, Finished, ElementFinished,
    StepFailed, WaitStarted, StepPassed, Stopping, StepUndone, Parked, Released, Replying, Settled,
    Dead,
]  # fmt: skip


def request_name(step: int, part: str | msgspec.UnsetType = UNSET) -> str:
    """The name of a request within its run. The Idempotency-Key of the request ends with it.

    ``3`` for step 3, ``3.2`` for the second element of its FOREACH, ``undo.3`` for its undo. The
    message of a PUBLISH is named by the position of its step: ``@4``.
    """
    return str(step) if part is UNSET else part


def undo_request_name(step: int) -> str:
    """The name of the request that undoes a step."""
    return f"undo.{step}"


def dead_by_fault(error: Exception) -> Dead:
    """The end of a run in which this program raised an unexpected exception."""
    return Dead(Cause.INTERNAL.text, f"a fault in the Runtime Manager: {error!r}")


def parent_id_of(first: Fact) -> str | None:
    """The id of the parent run, from the first fact of a run; None: it has no parent."""
    origin = first.origin if isinstance(first, Accepted) else UNSET
    return None if origin is UNSET else origin.rpartition(":")[0]
