"""Tells the story of a run."""

from __future__ import annotations

from fractal_rm.domain.facts import Discarded
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.domain.story.advice import advice
from fractal_rm.domain.story.events import events
from fractal_rm.domain.story.find import last
from fractal_rm.domain.story.steps import Steps
from fractal_rm.domain.story.values import RunToTell, Story
from fractal_rm.domain.story.why import why

MAX_EVENTS = 200  # of a longer story, the middle is left out


def tell(told: RunToTell) -> Story:
    """The story of a run."""
    steps = Steps(told)
    all_events = events(told, steps)
    left_out = max(0, len(all_events) - MAX_EVENTS)
    if left_out:
        half = MAX_EVENTS // 2
        all_events = all_events[:half] + all_events[-half:]
    return Story(
        run=told.id,
        flow=told.flow_id,
        state=told.state,
        why=why(told, steps),
        is_trouble=is_trouble(told),
        events=all_events,
        advice=advice(told, steps),
        left_out=left_out,
    )


def is_trouble(told: RunToTell) -> bool:
    """Whether somebody should look at a run: it ended badly, and nobody has handled it."""
    if told.repeated_by or last(told, Discarded) is not None:
        return False
    return told.state in TROUBLE_STATES or told.state is State.PARKED
