"""References of a failed step that are null because a field is missing, perhaps misspelt."""

from __future__ import annotations

import re

import msgspec
from msgspec import UNSET

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.expression import Item, Reference, Result
from fractal_rm.domain.facts import Accepted, Finished, StepFailed
from fractal_rm.domain.flow import Call, Step, SubFlow
from fractal_rm.domain.masking.facts import masked
from fractal_rm.domain.missing_fields import MissingField, StepValues, missing_fields
from fractal_rm.domain.story.steps import Steps, undo_of
from fractal_rm.domain.story.values import Advice, RunToTell
from fractal_rm.domain.story.words import count, cut, listed, quoted

MAX_TOLD = 2  # references in one story
_MAX_NAME = 40  # characters of the name of a field
_MAX_REFERENCE = 120
# With these causes, a value that is null may be the fault.
_CAUSES = (Cause.STATUS, Cause.NOT_EXPECTED, Cause.CANNOT_EVALUATE, Cause.SUB_FLOW)
_PLAIN_NAME = re.compile(r"[\w-]+")


def null_references(told: RunToTell, failed: StepFailed | None, steps: Steps) -> list[MissingField]:
    """The references of a failed step that are null because a field is missing.

    Empty if the reader may not see values: the names of fields are part of them.
    """
    if failed is None or failed.cause not in _CAUSES or not told.show_values or told.flow is None:
        return []
    part = "" if failed.part is UNSET else failed.part
    is_undo = part.startswith("undo.")
    step = steps.at(_number(part[1:])) if part[:1] == "@" else steps.numbered(failed.step)
    if step is None:
        return []
    values = _values(told, failed, is_undo=is_undo)
    if values is None:
        return []
    return missing_fields(step, undo_of(step) if is_undo else _without_undo(step), values)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else -1


def _without_undo(step: Step) -> Step:
    if not isinstance(step, Call) or step.options is UNSET:
        return step
    options = msgspec.structs.replace(step.options, undo=None)
    return msgspec.structs.replace(step, options=options)


def _values(told: RunToTell, failed: StepFailed, *, is_undo: bool) -> StepValues | None:
    """The values that the step could use, as a reader may see them."""
    keeping = UNSET if told.flow is None else told.flow.keeping
    payload: msgspec.Raw | None = None
    results: dict[int, msgspec.Raw] = {}
    for _, fact in told.facts:
        if isinstance(fact, Accepted):
            seen = masked(fact, keeping)
            payload = seen.payload if isinstance(seen, Accepted) else None
        elif isinstance(fact, Finished) and (is_undo or fact.step != failed.step):
            seen = masked(fact, keeping)
            if isinstance(seen, Finished) and seen.data is UNSET:
                results[fact.step] = seen.result
    seen = masked(failed, keeping)
    answer = seen.answer if isinstance(seen, StepFailed) else UNSET
    if failed.cause is Cause.NOT_EXPECTED and answer is not UNSET and answer.body_start:
        # The start of a longer answer is no valid JSON, so nothing is found in it.
        results[failed.step] = msgspec.Raw(msgspec.json.encode(answer.body_start))
    if payload is None:
        return None
    element = "" if failed.part is UNSET or is_undo else failed.part.rpartition(".")[2]
    return StepValues(payload, results, max(1, _number(element)))


# --- sentences ------------------------------------------------------------------------------------


def why_null(found: list[MissingField], steps: Steps) -> str:
    """Which references are null, why, and which fields there are; empty if there are none."""
    texts = [
        f" {null_sentence(each, steps)} {_fields(each)}{_perhaps(each)}"
        for each in found[:MAX_TOLD]
    ]
    more = len(found) - MAX_TOLD
    if more > 0:
        texts.append(f" {count(more, 'more reference is', 'more references are')} null.")
    return "".join(texts)


def null_sentence(missing: MissingField, steps: Steps) -> str:
    """The sentence ``The reference shot.id is null, because the result of step 1 has no …``."""
    name = _written(missing.reference, steps)
    holder = missing.holder
    if holder.path:
        where = _written(holder, steps)
    elif isinstance(holder, Result):
        where = f"the result of step {holder.number}"
    elif isinstance(holder, Item):
        where = "the item"
    else:
        where = "the payload"
    return f"The reference {name} is null, because {where} has no field {_name(missing.field)}."


def _written(reference: Reference, steps: Steps) -> str:
    """A reference as the flow writes it, with the name of the step if it has one."""
    path = reference.path
    path = path if not path or path.startswith("[") else f".{path}"
    if not isinstance(reference, Result):
        return cut(("item" if isinstance(reference, Item) else "payload") + path, _MAX_REFERENCE)
    return cut((_step_name(steps, reference.number) or f"result{reference.number}") + path,
               _MAX_REFERENCE)  # fmt: skip


def _step_name(steps: Steps, number: int) -> str:
    step = steps.numbered(number)
    if isinstance(step, SubFlow):
        return step.name
    return "" if step is None or step.options is UNSET else step.options.name


def _name(name: str) -> str:
    return cut(name, _MAX_NAME) if _PLAIN_NAME.fullmatch(name) else quoted(name, _MAX_NAME)


def _fields(missing: MissingField) -> str:
    names = [_name(each) for each in missing.fields]
    if not names:
        return "It has no fields."
    if len(names) < missing.total:
        return f"It has {missing.total:,} fields, such as {listed(names)}."
    return (
        f"Its only field is {names[0]}." if len(names) == 1 else f"Its fields are {listed(names)}."
    )


def _perhaps(missing: MissingField) -> str:
    return "" if missing.similar is None else f" Perhaps {_name(missing.similar)} is meant."


# --- advice ---------------------------------------------------------------------------------------


def how_to_correct(
    found: list[MissingField], failed: StepFailed | None, steps: Steps
) -> list[Advice]:
    """How the flow is corrected, if a field of it is probably misspelt; otherwise empty."""
    first = next(iter(found), None)
    if first is None or first.similar is None or failed is None:
        return []
    line = steps.line(failed.step)
    where = f"flows.conf (line {line}, when the run began)" if line else "flows.conf"
    wrong = _written(first.reference, steps)
    right, field = _name(first.similar), _name(first.field)
    text = f"correct {wrong} in {where}: perhaps {right} is meant, not {field}"
    return [
        Advice(text, file="flows.conf", line=line),
        Advice("see whether the configuration has an error", ("check",)),
    ]
