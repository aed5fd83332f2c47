"""Collects the texts of a flow's picture: a heading, and a card for each step."""

from __future__ import annotations

from enum import Enum

import msgspec
from msgspec import UNSET

from fractal_rm.domain.flow import (
    Call,
    CallOptions,
    CatchUp,
    Durability,
    Flow,
    Keep,
    KeepSettings,
    Publish,
    QueueSettings,
    Reply,
    StartSettings,
    Step,
    SubFlow,
    Wait,
)
from fractal_rm.domain.needs import uses_item
from fractal_rm.flowlang.duration import duration_text
from fractal_rm.flowlang.wording import TextWriter, result_names, topic_word

Entry = tuple[str, str]  # a keyword, and the text that follows it


class Kind(str, Enum):
    """The kind of a step."""

    CALL = "call"
    RUN = "run"
    WAIT = "wait"
    PUBLISH = "publish"
    REPLY = "reply"


class Mark(msgspec.Struct, frozen=True):
    """What a page says about a step: a short text. ``tone`` is ``fail``, ``wait`` and so on."""

    text: str
    tone: str


class Card(msgspec.Struct, frozen=True):
    """The texts of a step. A text is empty if the flow does not have it.

    ``number`` is the number of the step's result, or None if the step has no result. ``when`` is
    the condition of the whole step. ``element_when`` is a condition that is evaluated for each
    element of a FOREACH. Pages add ``marks``, and ``link``: the address to which the target leads.
    """

    kind: Kind
    keyword: str
    target: str = ""
    number: int | None = None
    name: str = ""
    sends: str = ""
    when: str = ""
    foreach: str = ""
    element_when: str = ""
    options: tuple[Entry, ...] = ()
    undo: str = ""
    marks: tuple[Mark, ...] = ()
    link: str = ""


class Heading(msgspec.Struct, frozen=True):
    """The texts above the steps: the name of the flow, what starts it, and its settings."""

    name: str
    title: str
    starts: tuple[Entry, ...]
    settings: tuple[Entry, ...]


def heading(flow: Flow) -> Heading:
    """The heading of a flow's picture."""
    return Heading(f"Flow {flow.id}", flow.title, _starts(flow), _settings(flow))


def cards(flow: Flow) -> tuple[Card, ...]:
    """The cards of a flow's steps, in order."""
    wording = TextWriter(result_names(flow))
    return tuple(_card(step, wording) for step in flow.steps)


def _starts(flow: Flow) -> tuple[Entry, ...]:
    starts = StartSettings() if flow.starts is UNSET else flow.starts
    entries = [("trigger", f"for flow {flow.id}")]
    entries += [("ON", topic_word(topic)) for topic in starts.topics]
    if starts.every_ms is not None:
        entries.append(("EVERY", duration_text(starts.every_ms)))
    if starts.cron is not None:
        entries.append(("CRON", f'"{starts.cron.expression}" {starts.cron.zone}'))
    if starts.catch_up is not CatchUp.ONE:
        entries.append(("CATCHUP", starts.catch_up.value))
    return tuple(entries)


def _keeping(flow: Flow) -> list[Entry]:
    keeping = KeepSettings() if flow.keeping is UNSET else flow.keeping
    entries: list[Entry] = []
    if keeping.keep is not Keep.ALL:
        entries.append(("KEEP", keeping.keep.value))
    if keeping.mask:
        entries.append(("MASK", ", ".join(keeping.mask)))
    return entries


def _settings(flow: Flow) -> tuple[Entry, ...]:
    queueing = QueueSettings() if flow.queueing is UNSET else flow.queueing
    entries: list[Entry] = []
    if flow.deadline_ms is not UNSET:
        entries.append(("DEADLINE", duration_text(flow.deadline_ms)))
    limits = [str(each) for each in (queueing.limit, queueing.rate) if each is not None]
    if limits:
        entries.append(("LIMIT", " ".join(limits)))
    if queueing.priority != QueueSettings().priority:
        entries.append(("PRIORITY", str(queueing.priority)))
    if queueing.stale_ms is not None:
        entries.append(("STALE", duration_text(queueing.stale_ms)))
    if queueing.latest is not None:
        entries.append(("LATEST", queueing.latest))
    if flow.durable is not Durability.ACCEPT:
        entries.append(("DURABLE", flow.durable.value))
    if flow.order is not UNSET:
        entries.append(("ORDER", flow.order.value))
    if flow.errors is not UNSET:
        entries.append(("ERRORS", flow.errors.value))
    return (*entries, *_keeping(flow))


def _card(step: Step, wording: TextWriter) -> Card:
    if isinstance(step, Call):
        return _call(step, wording)
    when = "" if step.when is None else wording.expression(step.when)
    match step:
        case Wait():
            return Card(Kind.WAIT, "WAIT", duration_text(step.ms), when=when)
        case SubFlow():
            sends = wording.content(step.content)
            return Card(Kind.RUN, "RUN", f"flow {step.flow}", step.number, step.name, sends, when)
        case Publish():
            sends = wording.content(step.content)
            return Card(Kind.PUBLISH, "PUBLISH", topic_word(step.topic), sends=sends, when=when)
        case Reply():
            return Card(Kind.REPLY, "REPLY", sends=wording.content(step.content), when=when)


def _call(call: Call, wording: TextWriter) -> Card:
    options = CallOptions() if call.options is UNSET else call.options
    sends = wording.items(call.items)
    if options.json is not None:
        sends = f"JSON {wording.expression(options.json)}"
    elif options.raw is not None:
        sends = f"RAW {wording.reference(options.raw)}"
    when = foreach = element_when = undo = ""
    if options.when is not None and uses_item(options.when):
        element_when = wording.expression(options.when)
    elif options.when is not None:
        when = wording.expression(options.when)
    if options.foreach is not None:
        elements = wording.reference(options.foreach.list_reference)
        foreach = f"{elements}, {_concurrency(options.foreach.max_parallel)}"
    if options.undo is not None:
        undo = f"POST {call.component} {options.undo.endpoint}"
        undo += f" {wording.items(options.undo.items)}" if options.undo.items else ""
    return Card(
        Kind.CALL,
        call.method.value,
        f"{call.component} {call.endpoint}",
        call.number,
        options.name,
        sends,
        when,
        foreach,
        element_when,
        _options(options, wording),
        undo,
    )


def _concurrency(number: int) -> str:
    return "one at a time" if number == 1 else f"{number} at once"


def _options(options: CallOptions, wording: TextWriter) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    if options.timeout_ms is not None:
        entries.append(("TIMEOUT", duration_text(options.timeout_ms)))
    if options.retry is not None:
        entries.append(
            ("RETRY", f"{options.retry.times} EVERY {duration_text(options.retry.every_ms)}")
        )
    entries += [
        ("HEADER", f"{name} {wording.expression(value)}") for name, value in options.headers
    ]
    entries += [("QUERY", f"{name} {wording.expression(value)}") for name, value in options.query]
    if options.expect is not None:
        entries.append(("EXPECT", wording.expression(options.expect)))
    return tuple(entries)
