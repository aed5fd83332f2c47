"""Facts: records of what happened to a run. `domain.run` applies them to the run.

Facts are stored on the disk and read by later releases, so fields are never removed, and new fields
have defaults.
"""

from __future__ import annotations

from typing import TypeVar, Union

import msgspec
from msgspec import UNSET

from fractal_rm.domain.cause import Cause, ResponseExcerpt
from fractal_rm.domain.masking.omitted import Omitted
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.probe import ProbeVerdict
from fractal_rm.domain.state import State

Value = TypeVar("Value")


# gc=False: facts have no reference cycles, so the garbage collector need not track them.
class Fact(msgspec.Struct, frozen=True, tag_field="fact", gc=False):
    """Something that happened to a run.

    ``reason`` is a text for people that says why it happened. ``cause`` says the same as a code for
    programs. Facts that an older release wrote have no cause.
    """


class Accepted(Fact, frozen=True, tag="accepted"):
    """A trigger was accepted, so the run exists.

    ``flow`` and ``version`` identify the flow as it was at that time. ``placed``: whether the
    sender placed the run on this node. ``key``: the sender's id of the trigger. ``budget_ms``: the
    run must end within this time after its acceptance. ``origin``: the run and the step that
    started this run. ``reply_topic`` and ``correlation``: where and with which data the outcome is
    published (MQTT 5, 4.10). ``ahead_ms``: how far the steady clock was ahead of the wall clock, if
    they differed. ``node``: the id of the node that accepted the run (not in older releases).

    ``replays``: the id of the run or dead letter that this run repeats. ``from_step``: the first
    step that it executes again; the results of earlier steps are those of the repeated run.
    ``actor``: the operator who asked for the run, if any. ``omitted``: set if ``payload`` is not
    complete.
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
    replays: str | msgspec.UnsetType = UNSET
    from_step: int | msgspec.UnsetType = UNSET
    actor: str | msgspec.UnsetType = UNSET
    omitted: Omitted | msgspec.UnsetType = UNSET


class Received(Fact, frozen=True, tag="received"):
    """The node ``sender`` handed the run off to this node. ``epoch`` is that of the offer.

    ``sender`` is empty if the offer did not contain the id of its sender.
    """

    sender: str
    epoch: int


class Placed(Fact, frozen=True, tag="placed"):
    """A node was chosen to execute the run: the node that accepted it, or another node.

    ``node`` is None for the node that accepted the run, if `Accepted` does not name that node.
    ``maybe_twice``: whether the run was offered to another node before, which may have executed it,
    too. ``status`` is the HTTP status with which that node answered. ``named_node`` is the id that
    the balancer named, if this node executes the run anyway. ``actor`` is the operator who decided
    it, if any.
    """

    node: str | None
    reason: str
    maybe_twice: bool | msgspec.UnsetType = UNSET
    cause: Cause | msgspec.UnsetType = UNSET
    named_node: str | msgspec.UnsetType = msgspec.field(name="named", default=UNSET)
    status: int | msgspec.UnsetType = UNSET
    actor: str | msgspec.UnsetType = UNSET


class Offered(Fact, frozen=True, tag="offered"):
    """The run is about to be offered to the peer ``node``. ``epoch`` identifies this offer.

    ``runs_this_program``: whether the peer was known to be a node of this program. Such a node
    remembers which runs it has accepted. ``store`` and ``boot`` are those of the peer (not in older
    releases). ``run`` is the id of the run at the peer, if the run is returned to its sender.
    """

    node: str
    epoch: int
    runs_this_program: bool = msgspec.field(name="ours", default=False)
    store: str | msgspec.UnsetType = UNSET
    boot: str | msgspec.UnsetType = UNSET
    run: str | msgspec.UnsetType = UNSET


class OfferInDoubt(Fact, frozen=True, tag="offer-in-doubt"):
    """It is not known whether the peer has the offered run. The peer will be asked again."""

    reason: str


class Restarted(Fact, frozen=True, tag="begun"):
    """The node restarted and executes the run again. ``attempt`` counts the executions from 1."""

    attempt: int


class RequestStarted(Fact, frozen=True, tag="started"):
    """A request of a step is about to be sent. ``attempt`` counts the attempts from 1.

    ``part`` is set for an element of a FOREACH, an undo and a PUBLISH: its `request_name`.
    """

    step: int
    attempt: int = 1
    part: str | msgspec.UnsetType = UNSET


class Probed(Fact, frozen=True, tag="probed"):
    """The component was asked ``questions`` times about a request whose answer was lost."""

    step: int
    verdict: ProbeVerdict
    reason: str = ""
    questions: int = 1
    part: str | msgspec.UnsetType = UNSET


class Finished(Fact, frozen=True, tag="finished"):
    """A step has its result.

    ``result`` is the text of the response as a JSON string, or null for a skipped call. The result
    of a RUN is the reply of the child run, which may be any JSON. If the result is bytes, it is in
    ``data``, and ``result`` is null. ``status`` is 0 if there was no response. ``headers`` are the
    headers that the flow refers to, with lower-case names. It is unset if the flow refers to no
    header and not to the status. ``omitted``: set if the result is not complete.
    """

    step: int
    status: int
    took_ms: float
    result: msgspec.Raw
    headers: dict[str, str] | msgspec.UnsetType = UNSET
    data: bytes | msgspec.UnsetType = msgspec.field(default=UNSET, name="base64")
    omitted: Omitted | msgspec.UnsetType = UNSET


class ElementFinished(Fact, frozen=True, tag="element-finished"):
    """The call for one element of a FOREACH has its result. ``element`` counts from 1.

    ``result``, ``data`` and ``omitted`` have the same meaning as in `Finished`.
    """

    step: int
    element: int
    status: int
    took_ms: float
    result: msgspec.Raw
    data: bytes | msgspec.UnsetType = msgspec.field(default=UNSET, name="base64")
    omitted: Omitted | msgspec.UnsetType = UNSET


class StepFailed(Fact, frozen=True, tag="step-failed"):
    """An attempt of a step failed. ``part`` is as in `RequestStarted`. A PUBLISH has ``step`` 0.

    ``retry_at`` is the time of the next attempt. If ``final`` is true, there is no next attempt.
    ``attempt`` is 0 if the step ended the run without an attempt. If ``unknown`` is true, the step
    may have had an effect. ``answer`` is the stored part of the response, if there was a response.
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
    """A WAIT has begun. It ends at ``until``. ``position`` is its index in the flow's steps."""

    position: int
    until: Moment


class StepPassed(Fact, frozen=True, tag="passed"):
    """A WAIT, a PUBLISH or a REPLY has ended or was skipped. These steps have no number.

    ``position`` is the index in the steps of the flow. ``reply`` is the content of a REPLY as JSON.
    If the content is bytes, it is in ``data``, and ``reply`` is null. ``omitted``: set if the reply
    is not complete.
    """

    position: int
    reply: msgspec.Raw | msgspec.UnsetType = UNSET
    data: bytes | msgspec.UnsetType = msgspec.field(default=UNSET, name="base64")
    omitted: Omitted | msgspec.UnsetType = UNSET


class Stopping(Fact, frozen=True, tag="stopping"):
    """A step has failed. The finished steps will be undone. Then the run ends with ``state``."""

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
    """A person released a parked run. The run continues.

    ``actor``, ``request``: the operator, and the id of the request. ``at``: when; the age of the
    run counts from then. Older releases wrote none of them.
    """

    actor: str | msgspec.UnsetType = UNSET
    request: str | msgspec.UnsetType = UNSET
    at: Moment | msgspec.UnsetType = UNSET


class CancelRequested(Fact, frozen=True, tag="cancel-requested"):
    """An operator asked to cancel the run. No further step begins.

    ``cut``: the step in flight is ended at once; otherwise its result is awaited. ``undo``: the
    finished steps are undone. ``request`` is the id of the operator's request.
    """

    actor: str
    cut: bool = False
    undo: bool = True
    request: str = ""


class Discarded(Fact, frozen=True, tag="discarded"):
    """An operator decided that an ended run or a dead letter needs no more attention.

    This is the only fact that can follow the end of a run. ``request`` is the id of the request.
    """

    actor: str
    note: str = ""
    request: str = ""


class Replying(Fact, frozen=True, tag="replying"):
    """The run has ended with ``state``. Its outcome has not been published to the sender yet."""

    state: State
    reason: str = ""
    cause: Cause | msgspec.UnsetType = UNSET


class Settled(Fact, frozen=True, tag="settled"):
    """The run has ended. If ``reason`` is empty, the run keeps the reason of its `Placed`.

    ``status`` is the HTTP status with which a peer answered an offer of the run. ``actor`` is the
    operator who decided the end, if any, and ``request`` the id of their request to cancel the run.
    """

    state: State
    reason: str = ""
    cause: Cause | msgspec.UnsetType = UNSET
    status: int | msgspec.UnsetType = UNSET
    actor: str | msgspec.UnsetType = UNSET
    request: str | msgspec.UnsetType = UNSET


class Dead(Fact, frozen=True, tag="dead"):
    """A dead letter: a run was set aside, or a message was refused before it became a run.

    ``body`` is the message, cut to a maximum length. ``code`` is the cause as text, because it may
    be a cause that only a later release knows. ``flow_id`` is the flow that the topic or the URL of
    the message names; ``body`` is then only the payload. ``content_type`` is that of the message.
    """

    code: str
    reason: str
    source: str = ""
    body: bytes = b""
    flow_id: str | msgspec.UnsetType = UNSET
    content_type: str | msgspec.UnsetType = UNSET

    @property
    def cause(self) -> Cause:
        """The cause with this code, or `Cause.OTHER`."""
        return Cause(self.code)


AnyFact = Union[
    Accepted, Received, Placed, Offered, OfferInDoubt, Restarted, RequestStarted, Probed, Finished,
    ElementFinished, StepFailed, WaitStarted, StepPassed, Stopping, StepUndone, Parked, Released,
    CancelRequested, Replying, Settled, Dead, Discarded,
]  # fmt: skip


def request_name(step: int, part: str | msgspec.UnsetType = UNSET) -> str:
    """The name of a request within its run. The Idempotency-Key of the request ends with this name.

    Step 3: ``3``. The second element of step 3, a FOREACH: ``3.2``. The undo of step 3: ``undo.3``.
    A PUBLISH at position 4: ``@4``.
    """
    return str(step) if part is UNSET else part


def undo_request_name(step: int) -> str:
    """The name of the request that undoes a step."""
    return f"undo.{step}"


def dead_by_fault(error: Exception) -> Dead:
    """The dead letter of a run for which this program raised an unexpected exception."""
    return Dead(Cause.INTERNAL.text, f"a fault in the Runtime Manager: {error!r}")


def none_if_unset(value: Value | msgspec.UnsetType) -> Value | None:
    """The value of an optional field of a fact. None if the field is unset."""
    return None if value is UNSET else value
