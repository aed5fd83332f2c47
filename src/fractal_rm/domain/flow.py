"""A flow: its steps and settings, as compiled from flows.conf.

The journal keeps flows as JSON, so that a run continues with the flow that it began with. The names
of fields are in this JSON, and so in the version of a flow. Fields are only added, with defaults;
one with a better name keeps its old one there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import Enum
from typing import Union

import msgspec

from fractal_rm.domain.expression import Expression, Piece, Reference, Value


class Method(str, Enum):
    """The HTTP method of a call.

    ``of_seed``: the original has it, too. ``sends``: it has a body; the body of a DELETE would have
    no defined meaning (RFC 9110).
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

    ``accept``: the trigger. Results are written later, so a crash may repeat the last calls, with
    the same keys. ``step`` (``each_step``): also the results of all steps before it, so a crash may
    repeat only the call that was in flight.
    """

    ACCEPT = "accept"
    STEP = "step"

    def __init__(self, text: str) -> None:
        self.per_step = text == "step"


class OnError(str, Enum):
    """What follows a failed step: the run ends; or, as in the original, the flow continues."""

    STOP = "stop"
    CONTINUE = "continue"


class Retry(msgspec.Struct, frozen=True):
    """``RETRY n EVERY …``: at most ``times`` retries; ``every_ms`` is the first pause."""

    times: int
    every_ms: int = 100


class Undo(msgspec.Struct, frozen=True):
    """``UNDO endpoint items``: a POST to the component of the call, if a later step fails."""

    endpoint: str
    items: tuple[Piece, ...] = ()


class ForEach(msgspec.Struct, frozen=True):
    """``FOREACH ref``: one call for each element, at most ``at_once`` at the same time."""

    list_reference: Reference = msgspec.field(name="over")
    max_parallel: int = msgspec.field(name="at_once", default=1)


class CallOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """The options of a call, which the original does not have. A call without options has none.

    ``json`` or ``raw`` is its body if the body is not made of items. ``settles``: ``expect`` tests
    the status of the call, so it alone decides whether the status is a success. ``keeps`` has the
    headers of the answer that the flow uses; it is empty if the flow uses only the status.
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
    """One call, with the target from the ``TO`` above it.

    ``number`` counts the calls of the flow from 1, ``line`` the lines of flows.conf from 1.
    ``items`` make the body ``{"payload": [item, …]}``; a GET has none.
    """

    number: int
    component: str
    endpoint: str
    method: Method
    items: tuple[Piece, ...] = ()
    line: int = 0
    options: CallOptions | msgspec.UnsetType = msgspec.field(name="terms", default=msgspec.UNSET)


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of an instruction that is not a call: items, a template, or one raw value."""

    items: tuple[Piece, ...] = ()
    json: Value | None = None
    raw: Reference | None = None


class SubFlow(msgspec.Struct, frozen=True, tag="run", omit_defaults=True):
    """``RUN flow items``: runs another flow; its reply is the result, ``resultN``.

    The payload of the other run is the template, the one item, the list of items, or null.
    """

    number: int
    flow: str
    content: Content = Content()
    name: str = ""
    when: Expression | None = None
    line: int = 0


class Wait(msgspec.Struct, frozen=True, tag="wait", omit_defaults=True):
    """``WAIT duration``. A restart does not begin it again."""

    ms: int
    when: Expression | None = None
    line: int = 0


class Publish(msgspec.Struct, frozen=True, tag="publish", omit_defaults=True):
    """``PUBLISH topic items``: one message at QoS 1."""

    topic: str
    content: Content = Content()
    when: Expression | None = None
    line: int = 0


class Reply(msgspec.Struct, frozen=True, tag="reply", omit_defaults=True):
    """``REPLY items``: the reply to the sender. Without it, the reply is the last result."""

    content: Content = Content()
    when: Expression | None = None
    line: int = 0


Step = Union[Call, SubFlow, Wait, Publish, Reply]
StepWithResult = Union[Call, SubFlow]  # the steps that have a number and a result


class Order(str, Enum):
    """Steps one after another as listed, or independent steps at the same time."""

    LISTED = "listed"
    DATAFLOW = "dataflow"


class CatchUp(str, Enum):
    """Which missed runs of a schedule are made up for after the node was down."""

    NONE = "none"
    ONE = "one"
    ALL = "all"


class Cron(msgspec.Struct, frozen=True):
    """``CRON "expression" zone``: five fields, in the local time of an IANA time zone."""

    expression: str
    zone: str = "UTC"


class StartSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What starts a flow, besides triggers.

    ``topics`` are MQTT topic filters (MQTT 5, 4.7).
    """

    topics: tuple[str, ...] = ()
    every_ms: int | None = None
    cron: Cron | None = None
    catch_up: CatchUp = CatchUp.ONE


class QueueSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the runs of a flow wait in the queue of a node.

    ``limit``: how many may run at the same time. ``priority``: 9 begins before 0. ``stale_ms``: a
    run that has waited longer is not run. ``latest``: a JMESPath into the payload; of the waiting
    runs with the same value there, only the newest is run.
    """

    limit: int | None = None
    priority: int = 5
    stale_ms: int | None = None
    latest: str | None = None


class Flow(msgspec.Struct, frozen=True):
    """One flow. ``id`` is the number in its first line, as text; ``title`` is the rest of it.

    Unset fields are not in the JSON, so that the version of an old flow does not change.
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


def components_called_by(flow: Flow, flows: Mapping[str, Flow]) -> set[str]:
    """The names of the components that a flow and the flows that it runs call."""
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


def flow_version(flow: Flow) -> str:
    """The version of a flow: a digest of its JSON. The journal keeps each version once."""
    return version_of(msgspec.json.encode(flow))


def version_of(body: bytes) -> str:
    """The version of a flow by its JSON, which an older release may have written."""
    return hashlib.blake2b(body, digest_size=12).hexdigest()
