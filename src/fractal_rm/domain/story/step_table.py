"""The steps of a run as rows: what each of them did, how often it was tried, how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import UNSET

from fractal_rm.domain.body import ORIGINAL_ERROR, SKIPPED
from fractal_rm.domain.facts import (
    AnyFact,
    ElementFinished,
    Finished,
    RequestStarted,
    StepFailed,
    StepPassed,
    StepUndone,
    WaitStarted,
)
from fractal_rm.domain.flow import Call, Flow, SubFlow
from fractal_rm.domain.story.steps import Steps, target_of
from fractal_rm.domain.story.values import RunToTell
from fractal_rm.domain.story.words import count, cut, result_words

TimedFact = tuple[int, AnyFact]
MAX_RESULT = 200  # characters of a result or reason


class StepRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of a run.

    ``number`` is None for a WAIT, PUBLISH and REPLY. ``state`` is ``not begun``, ``in flight``,
    ``waiting``, ``to be retried``, ``done``, ``skipped``, ``failed``, ``unknown``, ``undone`` or
    ``not finished`` (the run ended before).
    ``status`` is the HTTP status of the last answer. ``attempts`` counts the requests.
    ``ended_ms`` is the wall time of its end, and ``took_ms`` the time of its last call. ``text`` is
    the start of the result, or the reason of the last failure.
    """

    number: int | None
    what: str
    state: str
    status: int | None = None
    attempts: int = 0
    ended_ms: int | None = None
    took_ms: float | None = None
    text: str = ""


def step_rows(told: RunToTell) -> list[StepRow]:
    """The steps of a run, in the order of the flow. Without the flow, those that have facts."""
    steps, by_step = Steps(told), _by_step(told)
    if told.flow is not None:
        return list(_by_flow(told, told.flow, by_step))
    numbers = {
        fact.step: None
        for _, fact in told.facts
        if isinstance(fact, (RequestStarted, Finished, StepFailed)) and fact.step
    }
    return [_numbered(told, number, steps.name(number), by_step[number]) for number in numbers]


def _by_step(told: RunToTell) -> dict[int | None, list[TimedFact]]:
    """The facts about each step; under None, those about steps without a number."""
    by_step: dict[int | None, list[TimedFact]] = {}
    for each in told.facts:
        by_step.setdefault(getattr(each[1], "step", 0) or None, []).append(each)
    return by_step


def _by_flow(
    told: RunToTell, flow: Flow, by_step: Mapping[int | None, list[TimedFact]]
) -> Iterator[StepRow]:
    steps = Steps(told)
    for position, step in enumerate(flow.steps):
        if isinstance(step, (Call, SubFlow)):
            facts = by_step.get(step.number, [])
            yield _numbered(told, step.number, target_of(step), facts)
        else:
            name = steps.name_at(position)
            yield _unnumbered(told, position, name, by_step.get(None, []))


def _numbered(told: RunToTell, number: int, what: str, facts: list[TimedFact]) -> StepRow:
    state, status, attempts, text = "not begun", None, 0, ""
    ended_ms: int | None = None
    took_ms: float | None = None
    elements, is_sent = 0, False
    for at_ms, fact in facts:
        match fact:
            case RequestStarted() if fact.part is UNSET:
                state, attempts, is_sent = "in flight", fact.attempt, True
            case RequestStarted() if not _is_undo(fact.part):
                state = "in flight" if state == "not begun" else state
            case ElementFinished():
                state, elements = "in flight", elements + 1
                text = f"{count(elements, 'element')} done" if told.show_values else ""
            case StepFailed() if not _is_undo(fact.part):
                state, attempts, text = (
                    _failed_state(fact),
                    fact.attempt,
                    cut(fact.reason, MAX_RESULT),
                )
                status = None if fact.answer is UNSET else fact.answer.status
                ended_ms, is_sent = at_ms, fact.final is True
            case Finished():
                failed = state == "failed"  # with ERRORS continue, a failed step has a result, too
                state = "failed" if failed else _finished_state(fact)
                text = text if failed else result_words(fact.result, fact.data, MAX_RESULT)
                text = text if told.show_values or failed else ""
                status = fact.status or (status if failed else None)
                took_ms, ended_ms = fact.took_ms or None, at_ms
                attempts += bool(fact.status and not is_sent)
            case StepUndone():
                state = "undone"
            case _:
                pass
    state = _at_the_end(state) if told.state.final else state
    return StepRow(number, what, state, status, attempts, ended_ms, took_ms, text)


def _at_the_end(state: str) -> str:
    """The state of a step of a run that has ended. No fact says that the step has ended."""
    after = {"in flight": "unknown", "to be retried": "failed", "waiting": "not finished"}
    return after.get(state, state)


def _is_undo(part: str | msgspec.UnsetType) -> bool:
    return part is not UNSET and part.startswith("undo.")


def _failed_state(fact: StepFailed) -> str:
    if fact.unknown is True:
        return "unknown"
    return "failed" if fact.final is True else "to be retried"


def _finished_state(fact: Finished) -> str:
    if fact.status == 0 and fact.result == ORIGINAL_ERROR:
        return "failed"
    if fact.status == 0 and fact.result == SKIPPED and fact.data is UNSET:
        return "skipped"
    return "done"


def _unnumbered(told: RunToTell, position: int, what: str, facts: list[TimedFact]) -> StepRow:
    state, ended_ms, attempts, text = "not begun", None, 0, ""
    name = f"@{position}"
    for at_ms, fact in facts:
        match fact:
            case WaitStarted(position=at) if at == position:
                state = "waiting"
                text = f"until {told.clock(fact.until.wall_ms)}"
            case StepFailed(part=part) if part == name:
                state, attempts, text = (
                    _failed_state(fact),
                    fact.attempt,
                    cut(fact.reason, MAX_RESULT),
                )
                ended_ms = at_ms
            case StepPassed(position=at) if at == position:
                state, ended_ms, text = "done", at_ms, ""
            case _:
                pass
    state = _at_the_end(state) if told.state.final else state
    return StepRow(None, what, state, None, attempts, ended_ms, None, text)
