"""Facts: records of what happened to a run. `domain.run` applies them to the run.

Facts are stored on the disk and read by later releases, so fields are never removed, and new fields
have defaults.
"""

from __future__ import annotations

from typing import TypeVar, Union

import msgspec
from msgspec import UNSET

from fractal_rm.domain.cause import Cause, ResponseExcerpt
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.state import State

Value = TypeVar("Value")


# There are thousands of facts, without reference cycles: the garbage collector need not track them.
class Fact(msgspec.Struct, frozen=True, tag_field="fact", gc=False):
    """Something that happened to a run.

    ``reason`` says in words why it happened, for people. ``cause`` says it as a code, for programs.
    Facts of older releases have no cause.
    """


class Accepted(Fact, frozen=True, tag="accepted"):
    """A trigger was accepted: the run exists.

    ``flow`` and ``version`` identify the flow as it was at that time. ``placed``: the sender placed
    the run on this node. ``key``: the sender's id of the trigger. ``budget_ms``: the time from the
    acceptance within which the run must end. ``origin``: the run and the step that started this
    run. ``reply_topic`` and ``correlation`` (MQTT 5, 4.10): where the outcome is published.
    ``ahead_ms``: how far the steady clock was ahead of the wall clock, if they differed. ``node``:
    the id of the node that accepted the run; older releases did not write ``node``.
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
    """The node ``sender`` handed the run off to this node. ``epoch``: see `Offered`.

    ``sender`` is empty if the offer did not contain an id of its sender.
    """

    sender: str
    epoch: int


class Placed(Fact, frozen=True, tag="placed"):
    """A node was chosen to execute the run: the node that accepted it, or another node.

    ``node`` is None for the node that accepted the run, if `Accepted` does not name that node.
    ``maybe_twice``: the run was offered to another node before, which may have executed it, too.
    ``status`` is the HTTP status with which that node answered the offer. ``named_node`` is
    the id that the balancer named, if this node executes the run.
    """

    node: str | None
    reason: str
    maybe_twice: bool | msgspec.UnsetType = UNSET
    cause: Cause | msgspec.UnsetType = UNSET
    named_node: str | msgspec.UnsetType = msgspec.field(name="named", default=UNSET)
    status: int | msgspec.UnsetType = UNSET


class Offered(Fact, frozen=True, tag="offered"):
    """The run is about to be offered to the peer ``node``. ``epoch`` identifies this offer.

    ``runs_this_program``: the peer was known to be a node of this program. Such a node remembers
    which runs it has accepted.
    """

    node: str
    epoch: int
    runs_this_program: bool = msgspec.field(name="ours", default=False)


class Restarted(Fact, frozen=True, tag="begun"):
    """The node restarted and executes the run again. ``attempt`` counts its executions from 1."""

    attempt: int


class RequestStarted(Fact, frozen=True, tag="started"):
    """A request of a step is about to be sent. ``attempt`` counts the attempts from 1.

    ``part`` is the name of the request if it is for an element of a FOREACH, for an undo or for a
    PUBLISH: see `request_name`.
    """

    step: int
    attempt: int = 1
    part: str | msgspec.UnsetType = UNSET


class Finished(Fact, frozen=True, tag="finished"):
    """A step has its result.

    ``result`` is the text of the response as a JSON string, or null for a skipped call. The result
    of a RUN is the reply of the child run, which may be any JSON. A result that is bytes is in
    ``data``, and ``result`` is null. ``status`` is 0 if there was no response. ``headers`` are the
    headers that the flow refers to, with names in lower case; unset if the flow refers to neither
    the headers nor the status.
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

    ``retry_at`` is the time of the next attempt. ``final``: there is no next attempt. ``attempt``
    is 0 if the step ended the run without an attempt. ``unknown``: it is not known whether the step
    had an effect. ``answer`` is the stored part of the response, if there was a response.
    """

    step: int
    attempt: int
    reason: str
    part: str | msgspec.UnsetType = UNSET
    retry_at: Moment | msgspec.UnsetType = msgspec.field(name="again", default=UNSET)
    final: bool | msgspec.UnsetType = UNSET
    unknown: bool | msgspec.UnsetType = UNSET
    cause: Cause | msgspec.UnsetType = UNSET
    answer: ResponseExcerpt | msgspec.UnsetType = UNSET


class WaitStarted(Fact, frozen=True, tag="waiting"):
    """A WAIT has begun. It ends at ``until``. ``position`` counts the steps of the flow from 0."""

    position: int
    until: Moment


class StepPassed(Fact, frozen=True, tag="passed"):
    """A WAIT, a PUBLISH or a REPLY is done or was skipped. These steps have no number.

    ``position`` counts the steps of the flow from 0. ``reply`` is the content of a REPLY as JSON.
    Content that is bytes is in ``data``, and ``reply`` is null.
    """

    position: int
    reply: msgspec.Raw | msgspec.UnsetType = UNSET
    data: bytes | msgspec.UnsetType = msgspec.field(default=UNSET, name="base64")


class Stopping(Fact, frozen=True, tag="stopping"):
    """A step has failed. The finished steps are undone; then the run ends with ``state``."""

    state: State
    reason: str
    cause: Cause | msgspec.UnsetType = UNSET


class StepUndone(Fact, frozen=True, tag="undone"):
    """The UNDO of a finished step has succeeded."""

    step: int
    status: int
    took_ms: float


class Parked(Fact, frozen=True, tag="parked"):
    """The run was parked: it waits until a person releases it."""

    reason: str
    cause: Cause | msgspec.UnsetType = UNSET


class Released(Fact, frozen=True, tag="released"):
    """A person released a parked run. The run continues."""


class Replying(Fact, frozen=True, tag="replying"):
    """The run has ended with ``state``. The outcome must still be published to its sender."""

    state: State
    reason: str = ""
    cause: Cause | msgspec.UnsetType = UNSET


class Settled(Fact, frozen=True, tag="settled"):
    """The run has ended. If ``reason`` is empty, the run keeps the reason for its placement.

    ``status`` is the HTTP status of a peer's answer to an offer of the run.
    """

    state: State
    reason: str = ""
    cause: Cause | msgspec.UnsetType = UNSET
    status: int | msgspec.UnsetType = UNSET


class Dead(Fact, frozen=True, tag="dead"):
    """A dead letter: a run was set aside, or a message was refused before it became a run.

    ``body`` is the message, cut to a maximum length. ``code`` is the cause as text; it may be a
    cause that only a later release knows.
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
    """The name of a request within its run. The Idempotency-Key of the request ends with this name.

    The request of step 3 is ``3``. If step 3 is a FOREACH, the request for its second element is
    ``3.2``. The undo of step 3 is ``undo.3``. A PUBLISH is named by its position: ``@4``.
    """
    return str(step) if part is UNSET else part


def undo_request_name(step: int) -> str:
    """The name of the request that undoes a step."""
    return f"undo.{step}"


def dead_by_fault(error: Exception) -> Dead:
    """The end of a run for which this program raised an unexpected exception."""
    return Dead(Cause.INTERNAL.text, f"a fault in the Runtime Manager: {error!r}")


def none_if_unset(value: Value | msgspec.UnsetType) -> Value | None:
    """The value of an optional field of a fact, or None."""
    return None if value is UNSET else value


def parent_id_of(first: Fact) -> str | None:
    """The id of the parent of a run, from the first fact of the run. None without a parent."""
    origin = first.origin if isinstance(first, Accepted) else UNSET
    return None if origin is UNSET else origin.rpartition(":")[0]
