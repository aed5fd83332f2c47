"""What a picture says of a flow and of each of its steps, in words."""

from __future__ import annotations

from enum import Enum

import msgspec
from msgspec import UNSET

from fractal_rm.domain.flow import (
    Call,
    CatchUp,
    Durable,
    Flow,
    Publish,
    Queueing,
    Starts,
    Step,
    SubFlow,
    Terms,
    Wait,
)
from fractal_rm.domain.needs import speaks_of_item
from fractal_rm.flowlang.duration import duration
from fractal_rm.flowlang.wording import Wording, names_of, topic_word

Said = tuple[str, str]  # a keyword and what follows it


class Kind(str, Enum):
    """What a step is."""

    CALL = "call"
    RUN = "run"
    WAIT = "wait"
    PUBLISH = "publish"
    REPLY = "reply"


class Card(msgspec.Struct, frozen=True):
    """A step. ``number`` is that of its result; texts are empty where nothing is said.

    ``when`` decides about the step, ``picks`` about each element of a FOREACH.
    """

    kind: Kind
    keyword: str
    target: str = ""
    number: int | None = None
    name: str = ""
    sends: str = ""
    when: str = ""
    each: str = ""
    picks: str = ""
    terms: tuple[Said, ...] = ()
    undo: str = ""


class Heading(msgspec.Struct, frozen=True):
    """What stands above the steps: the flow's name, what begins it, its settings."""

    name: str
    title: str
    begins: tuple[Said, ...]
    settings: tuple[Said, ...]


def heading(flow: Flow) -> Heading:
    """The head of a flow's picture."""
    return Heading(f"Flow {flow.id}", flow.title, _begins(flow), _settings(flow))


def cards(flow: Flow) -> tuple[Card, ...]:
    """Its steps, in order."""
    words = Wording(names_of(flow))
    return tuple(_card(step, words) for step in flow.steps)


def _begins(flow: Flow) -> tuple[Said, ...]:
    starts = Starts() if flow.starts is UNSET else flow.starts
    said = [("trigger", f"for flow {flow.id}")]
    said += [("ON", topic_word(topic)) for topic in starts.topics]
    if starts.every_ms is not None:
        said.append(("EVERY", duration(starts.every_ms)))
    if starts.cron is not None:
        said.append(("CRON", f'"{starts.cron.expression}" {starts.cron.zone}'))
    if starts.catch_up is not CatchUp.ONE:
        said.append(("CATCHUP", starts.catch_up.value))
    return tuple(said)


def _settings(flow: Flow) -> tuple[Said, ...]:
    queueing = Queueing() if flow.queueing is UNSET else flow.queueing
    said: list[Said] = []
    if flow.deadline_ms is not UNSET:
        said.append(("DEADLINE", duration(flow.deadline_ms)))
    if queueing.limit is not None:
        said.append(("LIMIT", str(queueing.limit)))
    if queueing.priority != Queueing().priority:
        said.append(("PRIORITY", str(queueing.priority)))
    if queueing.stale_ms is not None:
        said.append(("STALE", duration(queueing.stale_ms)))
    if queueing.latest is not None:
        said.append(("LATEST", queueing.latest))
    if flow.durable is not Durable.ACCEPT:
        said.append(("DURABLE", flow.durable.value))
    if flow.order is not UNSET:
        said.append(("ORDER", flow.order.value))
    if flow.errors is not UNSET:
        said.append(("ERRORS", flow.errors.value))
    return tuple(said)


def _card(step: Step, words: Wording) -> Card:
    if isinstance(step, Call):
        return _call(step, words)
    when = "" if step.when is None else words.expression(step.when)
    if isinstance(step, Wait):
        return Card(Kind.WAIT, "WAIT", duration(step.ms), when=when)
    sends = words.content(step.content)
    if isinstance(step, SubFlow):
        return Card(Kind.RUN, "RUN", f"flow {step.flow}", step.number, step.name, sends, when)
    if isinstance(step, Publish):
        return Card(Kind.PUBLISH, "PUBLISH", topic_word(step.topic), sends=sends, when=when)
    return Card(Kind.REPLY, "REPLY", sends=sends, when=when)


def _call(call: Call, words: Wording) -> Card:
    terms = Terms() if call.terms is UNSET else call.terms
    sends = words.items(call.items)
    if terms.json is not None:
        sends = f"JSON {words.expression(terms.json)}"
    elif terms.raw is not None:
        sends = f"RAW {words.reference(terms.raw)}"
    when = each = picks = undo = ""
    if terms.when is not None and speaks_of_item(terms.when):
        picks = words.expression(terms.when)
    elif terms.when is not None:
        when = words.expression(terms.when)
    if terms.each is not None:
        each = f"{words.reference(terms.each.over)}, {_at_once(terms.each.at_once)}"
    if terms.undo is not None:
        undo = f"POST {call.component} {terms.undo.endpoint}"
        undo += f" {words.items(terms.undo.items)}" if terms.undo.items else ""
    return Card(
        Kind.CALL,
        call.method.value,
        f"{call.component} {call.endpoint}",
        call.number,
        terms.name,
        sends,
        when,
        each,
        picks,
        _terms(terms, words),
        undo,
    )


def _at_once(number: int) -> str:
    return "one at a time" if number == 1 else f"{number} at once"


def _terms(terms: Terms, words: Wording) -> tuple[Said, ...]:
    said: list[Said] = []
    if terms.timeout_ms is not None:
        said.append(("TIMEOUT", duration(terms.timeout_ms)))
    if terms.retry is not None:
        said.append(("RETRY", f"{terms.retry.times} EVERY {duration(terms.retry.every_ms)}"))
    said += [("HEADER", f"{name} {words.expression(value)}") for name, value in terms.headers]
    said += [("QUERY", f"{name} {words.expression(value)}") for name, value in terms.query]
    if terms.expect is not None:
        said.append(("EXPECT", words.expression(terms.expect)))
    return tuple(said)
