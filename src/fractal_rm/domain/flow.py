"""A flow: the steps and the settings that are compiled from flows.conf.

The journal stores each flow as JSON, so that a run always continues with the same flow. The version
of a flow is a digest of this JSON, which contains the names of the fields. So fields are never
removed, new fields have defaults, and a renamed field keeps its old name in the JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import Enum
from typing import Union

import msgspec

from fractal_rm.domain.expression import Expression, Piece, Reference, Value
from fractal_rm.domain.rate import Rate


class Method(str, Enum):
    """The HTTP method of a call.

    ``in_original``: whether the original has the method, too. ``has_body``: whether a call with
    the method sends a body. DELETE does not: RFC 9110 defines no meaning for its body.
    """

    GET = "GET"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"

    def __init__(self, text: str) -> None:
        self.in_original = text in ("GET", "POST")
        self.has_body = text not in ("GET", "DELETE")


class Durability(str, Enum):
    """What must be on the disk before a call is sent.

    ``accept``: only the trigger. Results are written later, so a crash may cause the last calls to
    be repeated, with the same idempotency keys. ``step`` (``per_step``): the trigger and the
    results of all earlier steps. So only the call that was in flight may be repeated.
    """

    ACCEPT = "accept"
    STEP = "step"

    def __init__(self, text: str) -> None:
        self.per_step = text == "step"


class OnError(str, Enum):
    """What a failed step does: it ends the run, or the flow continues, as in the original."""

    STOP = "stop"
    CONTINUE = "continue"


class Retry(msgspec.Struct, frozen=True):
    """``RETRY n EVERY …``: at most ``times`` retries. ``every_ms`` is the first pause."""

    times: int
    every_ms: int = 100


class Undo(msgspec.Struct, frozen=True):
    """``UNDO endpoint items``: a POST to the component of the call, sent if a later step fails."""

    endpoint: str
    items: tuple[Piece, ...] = ()


class ForEach(msgspec.Struct, frozen=True):
    """``FOREACH reference``: one call for each element of a list.

    At most ``max_parallel`` of these calls are in flight at the same time.
    """

    list_reference: Reference = msgspec.field(name="over")
    max_parallel: int = msgspec.field(name="at_once", default=1)


class CallOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """The options of a call. The original does not have them.

    ``json`` or ``raw`` is the body, unless the body is made of items. ``expect_decides``: whether
    ``expect`` tests the status of the call, so that EXPECT alone decides which status is a success.
    ``kept_headers`` are the headers of the response that the flow uses. Empty: the flow uses only
    the status. None: the flow uses neither headers nor the status.
    """

    name: str = ""
    json: Value | None = None
    raw: Reference | None = None
    when: Expression | None = None
    expect: Expression | None = None
    expect_decides: bool = msgspec.field(name="settles", default=False)
    timeout_ms: int | None = None
    retry: Retry | None = None
    headers: tuple[tuple[str, Value], ...] = ()
    query: tuple[tuple[str, Value], ...] = ()
    kept_headers: tuple[str, ...] | None = msgspec.field(name="keeps", default=None)
    undo: Undo | None = None
    foreach: ForEach | None = msgspec.field(name="each", default=None)


class Call(msgspec.Struct, frozen=True, tag="call"):
    """One call. The ``TO`` above the call names its component and endpoint.

    ``number`` counts the steps that have a result, from 1. ``line`` counts the lines of flows.conf,
    from 1. ``items`` make the body ``{"payload": [item, …]}``. A GET has no items. ``options`` is
    unset if the call has no options.
    """

    number: int
    component: str
    endpoint: str
    method: Method
    items: tuple[Piece, ...] = ()
    line: int = 0
    options: CallOptions | msgspec.UnsetType = msgspec.field(name="terms", default=msgspec.UNSET)


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of a RUN, PUBLISH or REPLY: items, a template, or a raw value."""

    items: tuple[Piece, ...] = ()
    json: Value | None = None
    raw: Reference | None = None


class SubFlow(msgspec.Struct, frozen=True, tag="run", omit_defaults=True):
    """``RUN flow items``: starts a run of another flow. Its reply is the result of this step.

    The payload of that run is the template, the only item, a list of several items, or null.
    """

    number: int
    flow: str
    content: Content = Content()
    name: str = ""
    when: Expression | None = None
    line: int = 0


class Wait(msgspec.Struct, frozen=True, tag="wait", omit_defaults=True):
    """``WAIT duration``: a pause of ``ms`` milliseconds. A restart does not make it longer."""

    ms: int
    when: Expression | None = None
    line: int = 0


class Publish(msgspec.Struct, frozen=True, tag="publish", omit_defaults=True):
    """``PUBLISH topic items``: publishes one MQTT message with QoS 1."""

    topic: str
    content: Content = Content()
    when: Expression | None = None
    line: int = 0


class Reply(msgspec.Struct, frozen=True, tag="reply", omit_defaults=True):
    """``REPLY items``: sets the reply to the sender, instead of the last result."""

    content: Content = Content()
    when: Expression | None = None
    line: int = 0


Step = Union[Call, SubFlow, Wait, Publish, Reply]
StepWithResult = Union[Call, SubFlow]  # the steps that have a number and a result


class Order(str, Enum):
    """The order of steps: one after another, or independent steps at the same time."""

    LISTED = "listed"
    DATAFLOW = "dataflow"


class CatchUp(str, Enum):
    """How many missed runs of a schedule are started when the node starts again."""

    NONE = "none"
    ONE = "one"
    ALL = "all"


class Cron(msgspec.Struct, frozen=True):
    """``CRON "expression" zone``: a schedule of five fields in an IANA time zone."""

    expression: str
    zone: str = "UTC"


class StartSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What starts a flow, in addition to triggers: messages, an interval, or a CRON schedule.

    ``topics`` are the topic filters of the messages (MQTT 5, 4.7).
    """

    topics: tuple[str, ...] = ()
    every_ms: int | None = None
    cron: Cron | None = None
    catch_up: CatchUp = CatchUp.ONE


class QueueSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the runs of a flow wait in the queue of a node.

    ``limit``: how many runs may be executed at the same time. ``rate``: how many runs may begin in
    a time. ``priority``: 0 to 9. Runs with a higher priority begin first. ``stale_ms``: a run that
    has waited longer is not executed. ``latest``: a JMESPath that picks a value from each payload.
    If several waiting runs have the same value, only the newest of them is executed.
    """

    limit: int | None = None
    priority: int = 5
    stale_ms: int | None = None
    latest: str | None = None
    rate: Rate | None = None


class Keep(str, Enum):
    """How much of the payload, the results and the reply the history keeps of an ended run.

    ``head``: the first bytes of each value (see `domain.masking`).
    """

    NONE = "none"
    HEAD = "head"
    ALL = "all"


class KeepSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What may be shown and kept of the values of a flow's runs.

    ``mask`` are paths of fields. The values of these fields are never shown, and not kept.
    """

    keep: Keep = Keep.ALL
    mask: tuple[str, ...] = ()


class Flow(msgspec.Struct, frozen=True):
    """One flow. ``id`` is the number in its first line, as text. ``title`` is the rest of the line.

    The JSON does not contain unset fields. So new fields do not change the version of older flows.
    """

    id: str
    title: str = ""
    steps: tuple[Step, ...] = ()
    line: int = 0
    durable: Durability = Durability.ACCEPT
    deadline_ms: int | msgspec.UnsetType = msgspec.UNSET
    errors: OnError | msgspec.UnsetType = msgspec.UNSET
    order: Order | msgspec.UnsetType = msgspec.UNSET
    starts: StartSettings | msgspec.UnsetType = msgspec.UNSET
    queueing: QueueSettings | msgspec.UnsetType = msgspec.UNSET
    keeping: KeepSettings | msgspec.UnsetType = msgspec.UNSET


def components_called_by(flow: Flow, flows: Mapping[str, Flow]) -> set[str]:
    """The names of the components that are called by a flow, and by the flows that it runs."""
    names: set[str] = set()
    visited, waiting = {flow.id}, [flow]
    while waiting:
        for step in waiting.pop().steps:
            if isinstance(step, Call):
                names.add(step.component)
            elif isinstance(step, SubFlow) and step.flow in flows and step.flow not in visited:
                visited.add(step.flow)
                waiting.append(flows[step.flow])
    return names


def definition_digest(flow: Flow, flows: Mapping[str, Flow]) -> str:
    """A digest of what a flow does, with the flows that it runs, wherever they are in flows.conf.

    Two nodes compare it before one executes a run of the other.
    """
    included = {flow.id: flow}
    waiting = [flow]
    while waiting:
        for step in waiting.pop().steps:
            if isinstance(step, SubFlow) and step.flow in flows and step.flow not in included:
                included[step.flow] = flows[step.flow]
                waiting.append(flows[step.flow])
    content = [without_lines(included[flow_id]) for flow_id in (flow.id, *sorted(included))]
    return version_of(msgspec.json.encode(content))


def without_lines(flow: Flow) -> Flow:
    """A flow as if it were nowhere in flows.conf: equal for flows that do the same."""
    steps = tuple(msgspec.structs.replace(step, line=0) for step in flow.steps)
    return msgspec.structs.replace(flow, line=0, steps=steps)


def flow_version(flow: Flow) -> str:
    """The version of a flow: a digest of its JSON. The journal stores each version once."""
    return version_of(msgspec.json.encode(flow))


def version_of(body: bytes) -> str:
    """The version of a flow, computed from its JSON, which an older release may have written."""
    return hashlib.blake2b(body, digest_size=12).hexdigest()
