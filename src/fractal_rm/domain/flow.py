"""A flow: calls in order, as flows.conf states them, after every check has passed.

These values are also what the journal keeps of a flow, so that a run ends with the flow that it
began with (G13): fields are only ever added, with defaults.
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

    ``of_seed``: whether the seed's language has it. ``sends``: whether it has a body; one of a
    DELETE has no meaning that is agreed on (RFC 9110).
    """

    GET = "GET"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"

    def __init__(self, text: str) -> None:
        self.of_seed = text in ("GET", "POST")
        self.sends = text not in ("GET", "DELETE")


class Durable(str, Enum):
    """What must be on the disk before a call leaves: the trigger, or every step before it too.

    Under ``accept`` steps are written behind, and a crash may repeat the last calls under their
    keys; under ``step`` (``each_step``) it can repeat only the one call that was in flight.
    """

    ACCEPT = "accept"
    STEP = "step"

    def __init__(self, text: str) -> None:
        self.each_step = text == "step"


class Errors(str, Enum):
    """What a failed step does: it ends its run; or, as in the original, the flow goes on."""

    STOP = "stop"
    CONTINUE = "continue"


class Retry(msgspec.Struct, frozen=True):
    """``RETRY n EVERY …``: a failed call is made at most ``times`` more; pauses begin so long."""

    times: int
    every_ms: int = 100


class Undo(msgspec.Struct, frozen=True):
    """``UNDO endpoint items``: a POST to the call's own component, if a later step fails."""

    endpoint: str
    items: tuple[Piece, ...] = ()


class Each(msgspec.Struct, frozen=True):
    """``FOREACH ref``: a call is made once for each element, at most ``at_once`` at a time."""

    over: Reference
    at_once: int = 1


class Terms(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call says beyond the seed's language. A call that says nothing more has none.

    ``json`` and ``raw`` are its body where it is not made of items. ``settles`` says that
    ``expect`` looks at the call's own status, and so decides about it alone. ``keeps`` are the
    headers of the answer that the flow asks for, and empty where it asks for the status only.
    """

    name: str = ""
    json: Value | None = None
    raw: Reference | None = None
    when: Expression | None = None
    expect: Expression | None = None
    settles: bool = False
    timeout_ms: int | None = None
    retry: Retry | None = None
    headers: tuple[tuple[str, Value], ...] = ()
    query: tuple[tuple[str, Value], ...] = ()
    keeps: tuple[str, ...] | None = None
    undo: Undo | None = None
    each: Each | None = None


class Call(msgspec.Struct, frozen=True, tag="call"):
    """One call and the ``TO`` that it stands under.

    ``number`` counts the flow's calls from 1, ``line`` is its line in flows.conf, counted from 1.
    ``items`` are the body in order where it is ``{"payload": [item, …]}``, and empty for a GET.
    """

    number: int
    component: str
    endpoint: str
    method: Method
    items: tuple[Piece, ...] = ()
    line: int = 0
    terms: Terms | msgspec.UnsetType = msgspec.UNSET


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an instruction other than a call hands on: items, a template, or one text as it is."""

    items: tuple[Piece, ...] = ()
    json: Value | None = None
    raw: Reference | None = None


class SubFlow(msgspec.Struct, frozen=True, tag="run", omit_defaults=True):
    """``RUN flow items``: another flow, as a run of its own; its reply is the result.

    It counts for ``resultN``. Its payload is the template, or the one item, or the list of items,
    or null.
    """

    number: int
    flow: str
    content: Content = Content()
    name: str = ""
    when: Expression | None = None
    line: int = 0


class Wait(msgspec.Struct, frozen=True, tag="wait", omit_defaults=True):
    """``WAIT duration``: a restart does not begin it again."""

    ms: int
    when: Expression | None = None
    line: int = 0


class Publish(msgspec.Struct, frozen=True, tag="publish", omit_defaults=True):
    """``PUBLISH topic items``: one message at QoS 1."""

    topic: str
    content: Content = Content()
    when: Expression | None = None
    line: int = 0


class Respond(msgspec.Struct, frozen=True, tag="reply", omit_defaults=True):
    """``REPLY items``: what the sender is told; without one, the last result."""

    content: Content = Content()
    when: Expression | None = None
    line: int = 0


Step = Union[Call, SubFlow, Wait, Publish, Respond]
Counted = Union[Call, SubFlow]  # these have a number and a result


class Order(str, Enum):
    """One after another as listed; or calls that need nothing of each other at the same time."""

    LISTED = "listed"
    DATAFLOW = "dataflow"


class CatchUp(str, Enum):
    """Which of the moments that a node slept through a schedule makes up for."""

    NONE = "none"
    ONE = "one"
    ALL = "all"


class Cron(msgspec.Struct, frozen=True):
    """``CRON "expression" zone``: five fields, in the wall time of an IANA time zone."""

    expression: str
    zone: str = "UTC"


class Starts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What begins a flow besides the messages that name it.

    ``topics`` are MQTT topic filters (MQTT 5, 4.7).
    """

    topics: tuple[str, ...] = ()
    every_ms: int | None = None
    cron: Cron | None = None
    catch_up: CatchUp = CatchUp.ONE


class Queueing(msgspec.Struct, frozen=True, omit_defaults=True):
    """How runs of a flow wait for their turn.

    ``limit``: so many at once on this node. ``priority``: 9 goes before 0. ``stale_ms``: who has
    waited longer is not run. ``latest``: of those for which this JMESPath picks the same from the
    payload only the newest is run.
    """

    limit: int | None = None
    priority: int = 5
    stale_ms: int | None = None
    latest: str | None = None


class Flow(msgspec.Struct, frozen=True):
    """One flow. ``id`` is the number of its first line, as text; ``title`` the rest of it.

    What is unset is not written down either: a flow of the seed's language has the version that
    it always had.
    """

    id: str
    title: str = ""
    steps: tuple[Step, ...] = ()
    line: int = 0
    durable: Durable = Durable.ACCEPT
    deadline_ms: int | msgspec.UnsetType = msgspec.UNSET
    errors: Errors | msgspec.UnsetType = msgspec.UNSET
    order: Order | msgspec.UnsetType = msgspec.UNSET
    starts: Starts | msgspec.UnsetType = msgspec.UNSET
    queueing: Queueing | msgspec.UnsetType = msgspec.UNSET


def components_of(flow: Flow, flows: Mapping[str, Flow]) -> set[str]:
    """The names of the components that a flow calls, itself or by the ``flows`` that it runs."""
    names: set[str] = set()
    seen, left = {flow.id}, [flow]
    while left:
        for step in left.pop().steps:
            if isinstance(step, Call):
                names.add(step.component)
            elif isinstance(step, SubFlow) and step.flow in flows and step.flow not in seen:
                seen.add(step.flow)
                left.append(flows[step.flow])
    return names


def flow_version(flow: Flow) -> str:
    """Names exactly this definition: the journal keeps each one once."""
    return version_of(msgspec.json.encode(flow))


def version_of(body: bytes) -> str:
    """The version of a flow as it was written down, perhaps by a release that knew less of it."""
    return hashlib.blake2b(body, digest_size=12).hexdigest()
