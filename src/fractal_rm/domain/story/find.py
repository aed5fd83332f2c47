"""Finds what matters in the facts of a run."""

from __future__ import annotations

from typing import TypeVar

from msgspec import UNSET

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import (
    Dead,
    Fact,
    Finished,
    Parked,
    Replying,
    RequestStarted,
    Settled,
    StepFailed,
    StepUndone,
    Stopping,
)
from fractal_rm.domain.story.values import RunToTell

FactT = TypeVar("FactT", bound=Fact)


def last(told: RunToTell, kind: type[FactT]) -> FactT | None:
    """The last fact of a kind, or None."""
    return next((fact for _, fact in reversed(told.facts) if isinstance(fact, kind)), None)


def cause_of(told: RunToTell) -> Cause | None:
    """The cause of the end of a run, or None if it is not known."""
    for _, fact in reversed(told.facts):
        match fact:
            case Dead():
                return fact.cause
            case Settled() | Replying() | Stopping() | Parked():
                if fact.cause is not UNSET:
                    return fact.cause
            case _:
                pass
    return None


def failed_step(told: RunToTell) -> StepFailed | None:
    """The failure that ended a run: the first that was final and is no failure of an UNDO."""
    finals = [
        fact
        for _, fact in told.facts
        if isinstance(fact, StepFailed) and fact.final is True and not is_undo(fact)
    ]
    in_doubt = [fact for fact in finals if fact.unknown is True]
    return next(iter(in_doubt or finals), None)


def is_undo(fact: StepFailed) -> bool:
    """Whether a failure is that of an UNDO."""
    return fact.part is not UNSET and fact.part.startswith("undo.")


def time_of_last(told: RunToTell, kind: type[Fact]) -> int | None:
    """When the last fact of a kind was written, or None."""
    return next((at for at, fact in reversed(told.facts) if isinstance(fact, kind)), None)


def lost_step(told: RunToTell) -> int | None:
    """The step whose answer was lost: it was sent, and has no outcome."""
    unanswered: dict[int, None] = {}
    for _, fact in told.facts:
        match fact:
            case RequestStarted():
                unanswered[fact.step] = None
            case Finished() | StepUndone():
                unanswered.pop(fact.step, None)
            case StepFailed() if fact.unknown is UNSET:
                unanswered.pop(fact.step, None)
            case _:
                pass
    return next(iter(unanswered), None)
