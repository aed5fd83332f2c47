"""Sentences about steps: what was sent where, and what came back."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from fractal_rm.domain.body import ORIGINAL_ERROR, SKIPPED
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import (
    Accepted,
    ElementFinished,
    Finished,
    Probed,
    RequestStarted,
    Restarted,
    StepFailed,
    StepPassed,
    StepUndone,
    Stopping,
    WaitStarted,
    request_name,
)
from fractal_rm.domain.flow import Call, Reply, SubFlow, Wait
from fractal_rm.domain.probe import ProbeVerdict
from fractal_rm.domain.state import TROUBLE_STATES
from fractal_rm.domain.story.null_references import MAX_TOLD, null_references, null_sentence
from fractal_rm.domain.story.scene import Scene
from fractal_rm.domain.story.values import Event
from fractal_rm.domain.story.words import count, cut, duration, result_words, upper

SHORT_MS = 100  # the length of a shorter failed attempt is not told
LONG_WAIT_MS = 1_000  # a shorter wait before a call is not told
MAX_RESULT = 80  # quoted characters of a result


def started(scene: Scene, at_ms: int, fact: RequestStarted) -> Event | None:
    """A request that has no outcome among the next facts. Others are told with the outcome."""
    name = request_name(fact.step, fact.part)
    for _, later in scene.told.facts[scene.index :]:
        match later:
            case Finished() if str(later.step) == name:
                return None
            case ElementFinished() if f"{later.step}.{later.element}" == name:
                return None
            case StepUndone() if f"undo.{later.step}" == name:
                return None
            case StepPassed() if f"@{later.position}" == name:
                return None
            case StepFailed() | RequestStarted() if request_name(later.step, later.part) == name:
                if isinstance(later, StepFailed):
                    return None
                break
            case Restarted():
                break
            case _:
                pass
    text = f"{upper(scene.steps.name(fact.step, fact.part))} was sent"
    again = f" (attempt {fact.attempt})" if fact.attempt > 1 else ""
    return Event(at_ms, f"{text}{again}{_to(scene, fact.step, fact.part)}.", fact.step)


def _to(scene: Scene, number: int, part: str | msgspec.UnsetType = UNSET) -> str:
    url = scene.steps.url(number, part)
    return f" to {url}" if url else ""


def _before_call(scene: Scene, at_ms: int, took_ms: float, number: int) -> str:
    """How long the step waited before it was sent, if that is worth telling."""
    waited_ms = at_ms - took_ms - scene.last_ms
    if waited_ms < LONG_WAIT_MS or not took_ms:
        return ""
    note, component = scene.steps.note(number), scene.steps.component(number)
    why = ""
    if note is not None and note.limit is not None:
        why = f", perhaps for the limit of {component}: {count(note.limit, 'call')} at a time"
    return f" It had waited {duration(waited_ms)} before it was sent{why}."


def finished(scene: Scene, at_ms: int, fact: Finished) -> Event:
    """A step has its result."""
    number = fact.step
    step = scene.steps.numbered(number)
    if original := _taken_over_from(scene, at_ms, fact):
        text = f"The result of step {number} is taken over from run {original}"
        if isinstance(step, Call) and not fact.status and fact.result != SKIPPED:
            text = f"An operator decided that step {number} was done"
        return Event(at_ms, f"{text}{_result(scene, fact)}.", number)
    return _executed(scene, at_ms, fact)


def _executed(scene: Scene, at_ms: int, fact: Finished) -> Event:
    """The run has executed the step itself."""
    name, number = upper(scene.steps.name(fact.step)), fact.step
    step = scene.steps.numbered(number)
    if fact.result == ORIGINAL_ERROR or _has_failed(scene, number):
        text = "failed, but the flow has ERRORS continue: the run goes on with"
        what = "the answer" if fact.status else "an error text"
        return Event(at_ms, f"{name} {text} {what} as the result.", number, is_problem=True)
    if fact.status:
        sends = scene.steps.sends(number)
        sent = f" sent {sends}" if sends else " was sent"
        text = f"{name}{sent}{_to(scene, number)}, and was answered {fact.status}"
        text += f" after {duration(fact.took_ms)}{_result(scene, fact)}."
        return Event(at_ms, text + _before_call(scene, at_ms, fact.took_ms, number), number)
    if fact.result == SKIPPED and fact.data is UNSET and isinstance(step, Call):
        return Event(at_ms, f"{name} was skipped: its WHEN was not true.", number)
    if isinstance(step, SubFlow):
        runs = [each.run for each in scene.told.children if each.flow == step.flow]
        if fact.result == SKIPPED and not runs:
            return Event(at_ms, f"{name} was skipped: its WHEN was not true.", number)
        child = f"Its run {runs[0]}" if len(runs) == 1 else "Its run"
        return Event(at_ms, f"{name} is done. {child} succeeded{_result(scene, fact)}.", number)
    return Event(at_ms, f"{name} is done{_result(scene, fact)}.", number)


def _taken_over_from(scene: Scene, at_ms: int, fact: Finished) -> str:
    """The run that has executed the step, if this run has only taken over its result."""
    first_ms, first = scene.told.facts[0]
    if not isinstance(first, Accepted) or first.replays is UNSET:
        return ""
    # After a decision about the last step, no step is executed. Then the calls are older.
    is_older = fact.took_ms > at_ms - first_ms or not fact.took_ms
    is_earlier = is_older if first.from_step is UNSET else fact.step < first.from_step
    return first.replays if is_earlier else ""


def _has_failed(scene: Scene, number: int) -> bool:
    return any(
        isinstance(fact, StepFailed) and fact.step == number and fact.final is True
        for _, fact in scene.told.facts[: scene.index]
    )


def _result(scene: Scene, fact: Finished) -> str:
    if not scene.told.show_values:
        return ""
    text = result_words(fact.result, fact.data, MAX_RESULT)
    return f": {text}" if text else ""


def elements(scene: Scene, at_ms: int, first: ElementFinished) -> Event:
    """One sentence for all elements of a step that finished one after another."""
    done, slowest_ms = [first], first.took_ms
    while scene.index < len(scene.told.facts):
        at, fact = scene.told.facts[scene.index]
        started = isinstance(fact, RequestStarted) and fact.step == first.step
        if isinstance(fact, ElementFinished) and fact.step == first.step:
            done.append(fact)
            slowest_ms, at_ms = max(slowest_ms, fact.took_ms), at
        elif not started:
            break
        scene.index += 1
    name = scene.steps.name(first.step)
    skipped = sum(not each.status for each in done)
    statuses = sorted({str(each.status) for each in done if each.status})
    if len(done) == 1:
        name = scene.steps.name(first.step, f"{first.step}.{first.element}")
        if skipped:
            return Event(at_ms, f"{upper(name)} was skipped or failed.", first.step)
        text = f"was answered {first.status} after {duration(first.took_ms)}"
        return Event(at_ms, f"{upper(name)} {text}.", first.step)
    text = f"{count(len(done), 'element')} of {name} finished"
    if statuses:
        text += f", answered {', '.join(statuses)}; the slowest took {duration(slowest_ms)}"
    return Event(at_ms, f"{text}." + (f" {skipped} were skipped." if skipped else ""), first.step)


def failed(scene: Scene, at_ms: int, fact: StepFailed) -> Event:
    """An attempt failed."""
    name = upper(scene.steps.name(fact.step, fact.part))
    number = fact.step or None
    if fact.attempt == 0:
        unknown = ", and may have had an effect" if fact.unknown is True else ""
        nulls = _null_references(scene, fact)
        return Event(
            at_ms, f"{name} failed{unknown}: {cut(fact.reason)}.{nulls}", number, is_problem=True
        )
    attempt = f", attempt {fact.attempt}," if fact.attempt > 1 or fact.retry_at is not UNSET else ""
    took = _after(scene, at_ms)
    text = f"{name}{attempt} failed{took}{_at(scene, fact)}: {cut(fact.reason)}."
    if fact.retry_at is not UNSET:
        pause = duration(max(0, fact.retry_at.wall_ms - at_ms))
        text += f" The next attempt follows {pause} later."
    elif fact.final is True:
        text += " There is no further attempt." + _null_references(scene, fact)
    return Event(at_ms, text, number, is_problem=True)


def _null_references(scene: Scene, fact: StepFailed) -> str:
    found = null_references(scene.told, fact, scene.steps)[:MAX_TOLD]
    return "".join(f" {null_sentence(each, scene.steps)}" for each in found)


# With these causes, something was sent to the address of the step.
_SENT = (
    Cause.STATUS, Cause.NOT_EXPECTED, Cause.TIMED_OUT, Cause.BAD_REPLY, Cause.REPLY_TOO_LARGE,
    Cause.CALL_FAILED,
)  # fmt: skip


def _after(scene: Scene, at_ms: int) -> str:
    """How long an attempt took, if no other step can have been in flight."""
    took_ms = at_ms - scene.last_ms
    is_one_by_one = scene.told.flow is not None and scene.told.flow.order is UNSET
    return f" after {duration(took_ms)}" if is_one_by_one and took_ms >= SHORT_MS else ""


def _at(scene: Scene, fact: StepFailed) -> str:
    if not fact.step or fact.cause not in _SENT:
        return ""
    url = scene.steps.url(fact.step, fact.part)
    return f" at {url}" if url else ""


def wait(scene: Scene, at_ms: int, fact: WaitStarted) -> Event:
    """A WAIT began."""
    step = scene.steps.at(fact.position)
    length = f" of {duration(step.ms)}" if isinstance(step, Wait) else ""
    until = scene.told.clock(fact.until.wall_ms)
    return Event(at_ms, f"A WAIT{length} began. It ends at {until}.")


def passed(scene: Scene, at_ms: int, fact: StepPassed) -> Event:
    """A step without a number is done."""
    step = scene.steps.at(fact.position)
    name = scene.steps.name_at(fact.position)
    if fact.reply is not UNSET or isinstance(step, Reply):
        return Event(at_ms, "REPLY set the reply to the sender.")
    if isinstance(step, Wait):
        return Event(at_ms, "The WAIT is over.")
    return Event(at_ms, f"{name} is done.")


def probed(scene: Scene, at_ms: int, fact: Probed) -> Event:
    """The component was asked what became of a request whose answer was lost."""
    name = scene.steps.name(fact.step, fact.part)
    asked = f"The component was asked {count(fact.questions, 'time')} about {name}"
    said = {
        ProbeVerdict.DONE: "it has executed the call",
        ProbeVerdict.NOT_DONE: "it has not executed the call, so the call is made again",
        ProbeVerdict.UNKNOWN: f"it cannot say whether it executed the call ({cut(fact.reason)})",
    }[fact.verdict]
    is_problem = fact.verdict is ProbeVerdict.UNKNOWN
    return Event(at_ms, f"{asked}: {said}.", fact.step, is_problem=is_problem)


def stopping(_scene: Scene, at_ms: int, fact: Stopping) -> Event:
    """The run will end, after its steps are undone."""
    text = f"The run will end as {fact.state.value}. Before that, its finished steps are undone."
    return Event(at_ms, text, is_problem=fact.state in TROUBLE_STATES)


def undone(scene: Scene, at_ms: int, fact: StepUndone) -> Event:
    """A step was undone."""
    request = scene.steps.undo_request(fact.step) or "the request"
    text = f"Step {fact.step} was undone: {request} was answered {fact.status}"
    return Event(at_ms, f"{text} after {duration(fact.took_ms)}.", fact.step)
