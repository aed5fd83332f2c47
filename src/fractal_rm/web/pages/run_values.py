"""The values of a run: its payload, the results of its steps and its reply, cut for a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import UNSET

from fractal_rm.domain.facts import Accepted, AnyFact, Dead, Finished, StepPassed
from fractal_rm.domain.masking.omitted import Omission, Omitted
from fractal_rm.domain.story.words import size
from fractal_rm.engine.ports import TimedFact

MAX_SHOWN = 4 * 1024  # characters of one value on a page
MAX_ALL_SHOWN = 48 * 1024  # characters of all values on a page
MAX_VALUES = 200  # on a page


class RunValue(msgspec.Struct, frozen=True):
    """A value of a run, as a page shows it.

    ``which`` is its name in addresses: ``payload``, ``result-2`` or ``reply``. ``text`` is its
    beginning. ``note`` says what is missing, and why.
    """

    which: str
    name: str
    text: str
    size: int
    is_cut: bool
    note: str = ""


class WholeValue(msgspec.Struct, frozen=True):
    """A whole value. ``kind`` is its media type, and ``ending`` that of its file."""

    content: bytes
    kind: str
    ending: str


def values_of(facts: Sequence[TimedFact]) -> list[RunValue]:
    """The values of a run that a page shows: in their order."""
    found: list[RunValue] = []
    left = MAX_ALL_SHOWN
    for which, name, fact in _all(facts):
        if len(found) == MAX_VALUES:
            break
        value = _shown(which, name, fact, min(left, MAX_SHOWN))
        left -= len(value.text)
        found.append(value)
    return found


def whole_value(facts: Sequence[TimedFact], which: str) -> WholeValue | None:
    """A whole value by its name in addresses; None: the run has no such value."""
    for each, _, fact in _all(facts):
        if each == which:
            return _whole(fact)
    return None


def _all(facts: Sequence[TimedFact]) -> Iterator[tuple[str, str, AnyFact]]:
    last: dict[str, tuple[str, AnyFact]] = {}  # of a step that was executed again, the last result
    for timed in facts:
        fact = timed.fact
        match fact:
            case Accepted():
                last["payload"] = "Request: the payload", fact
            case Finished():
                last[f"result-{fact.step}"] = f"Result of step {fact.step}", fact
            case StepPassed() if fact.reply is not UNSET:
                last["reply"] = "Reply", fact
            case Dead() if fact.body:
                last["message"] = "Message", fact
            case _:
                pass
    for which, (name, fact) in last.items():
        yield which, name, fact


def _shown(which: str, name: str, fact: AnyFact, most: int) -> RunValue:
    whole = _whole(fact)
    omitted: Omitted | msgspec.UnsetType = getattr(fact, "omitted", UNSET)
    note = ""
    if omitted is not UNSET:
        note = _NOTES[omitted.what].format(size(omitted.size))
    if whole.kind == "application/octet-stream":
        return RunValue(which, name, "", len(whole.content), True, note or "these are not text")
    start = whole.content[: 4 * most].decode("utf-8", "replace")[:most]
    if whole.ending == "json":
        start = _formatted(whole.content, start)[:most]
    is_cut = len(start.encode("utf-8", "replace")) < len(whole.content) and len(start) >= most
    return RunValue(which, name, start, len(whole.content), is_cut, note)


def _formatted(content: bytes, otherwise: str) -> str:
    """A short JSON with a line for each member; a long one as it is."""
    if len(content) > MAX_SHOWN:
        return otherwise
    try:
        return msgspec.json.format(content, indent=2).decode("utf-8", "replace")
    except (msgspec.MsgspecError, RecursionError):
        return otherwise


_NOTES = {
    Omission.ALL: "not kept: the flow has KEEP or MASK; it had {}",
    Omission.REST: "only its beginning is kept, because the flow has KEEP head; it had {}",
    Omission.FIELDS: "fields are masked, because the flow has MASK; it had {}",
}


def _whole(fact: AnyFact) -> WholeValue:
    """The value of a fact as a file: the text of a text, JSON, or bytes."""
    data: bytes | msgspec.UnsetType = getattr(fact, "data", UNSET)
    if isinstance(fact, Dead):
        data = fact.body
    if data is not UNSET:
        return _file_of_bytes(data)
    raw = bytes(_json_of(fact))
    if raw[:1] == b'"':
        return WholeValue(
            msgspec.json.decode(raw, type=str).encode("utf-8", "replace"), TEXT, "txt"
        )
    return WholeValue(raw, "application/json", "json")


TEXT = "text/plain; charset=utf-8"


def _file_of_bytes(data: bytes) -> WholeValue:
    try:
        _ = data.decode()
    except UnicodeDecodeError:
        return WholeValue(data, "application/octet-stream", "bin")
    return WholeValue(data, TEXT, "txt")


def _json_of(fact: AnyFact) -> msgspec.Raw:
    match fact:
        case Accepted():
            return fact.payload
        case Finished():
            return fact.result
        case StepPassed() if fact.reply is not UNSET:
            return fact.reply
        case _:
            return msgspec.Raw(b"null")
