"""The values of a run: its payload, the results of its steps and its reply, cut for a page."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from fractal_rm.domain.facts import Accepted, AnyFact, Dead, Finished, StepPassed
from fractal_rm.domain.masking.omitted import Omission, Omitted
from fractal_rm.domain.story.words import size as size_words
from fractal_rm.engine.ports import RunOutline, TimedFact

MAX_SHOWN = 4 * 1024  # characters of one value on a page
MAX_ALL_SHOWN = 48 * 1024  # characters of all values on a page
MAX_VALUES = 200  # on a page
TEXT, BYTES = "text/plain; charset=utf-8", "application/octet-stream"


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


def values_of(outline: RunOutline) -> list[RunValue]:
    """The values of a run that a page shows: in their order."""
    found: list[RunValue] = []
    left = MAX_ALL_SHOWN
    for which, (name, index) in _all(outline.facts).items():
        if len(found) == MAX_VALUES:
            break
        fact, size = outline.facts[index].fact, outline.sizes.get(index)
        value = _shown(which, name, fact, size, min(left, MAX_SHOWN))
        left -= len(value.text)
        found.append(value)
    return found


def index_of(facts: Sequence[TimedFact], which: str) -> int | None:
    """The index of the fact with a value, by its name in addresses; None: there is none."""
    found = _all(facts).get(which)
    return None if found is None else found[1]


def _all(facts: Sequence[TimedFact]) -> dict[str, tuple[str, int]]:
    """Name and index of each value. Of a step that was executed again, the last result counts."""
    found: dict[str, tuple[str, int]] = {}
    for index, timed in enumerate(facts):
        match timed.fact:
            case Accepted():
                found["payload"] = "Request: the payload", index
            case Finished(step=step):
                found[f"result-{step}"] = f"Result of step {step}", index
            case StepPassed(reply=reply) if reply is not UNSET:
                found["reply"] = "Reply", index
            case Dead(body=body) if body:
                found["message"] = "Message", index
            case _:
                pass
    return found


def _shown(which: str, name: str, fact: AnyFact, size: int | None, most: int) -> RunValue:
    """A value for a page. ``size``: its size, if the fact has only its beginning."""
    whole = whole_value(fact)
    length = len(whole.content) if size is None else size
    omitted: Omitted | msgspec.UnsetType = getattr(fact, "omitted", UNSET)
    note = ""
    if omitted is not UNSET and size is None:
        note = _NOTES[omitted.what].format(size_words(omitted.size))
    if whole.kind == BYTES:
        return RunValue(which, name, "", length, False, note or "these are not text")
    start = whole.content[: 4 * most].decode("utf-8", "replace")
    if whole.ending == "json":
        start = _formatted(whole.content, start)
    return RunValue(which, name, start[:most], length, size is not None or len(start) > most, note)


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


def whole_value(fact: AnyFact) -> WholeValue:
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


def _file_of_bytes(data: bytes) -> WholeValue:
    try:
        _ = data.decode()
    except UnicodeDecodeError:
        return WholeValue(data, BYTES, "bin")
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
