"""The story of a run in plain sentences: what happened when, why it is so, and what can be done.

`tell` makes the story from the facts of a run. Commands, the HTTP API and pages show it.

- `values`: what a story is made from, and the story.
- `events`: a sentence for each thing that happened; `placing` and `step_events` have some of them.
- `why`: the sentence at the top; `why_failed` has those about failed steps.
- `null_references`: references of a failed step that are null because a field is misspelt.
- `advice`: what can be done now, as commands.
- `waiting`: what a run that has not ended waits for. `find` finds facts.
- `step_table`: the steps as rows. `waterfall`: the same on a line of time; `bars` makes
  what it shows (`bar`).
- `words`: durations, numbers and quotations.
"""

from __future__ import annotations

from fractal_rm.domain.story.bar import Bar
from fractal_rm.domain.story.step_table import StepRow, step_rows
from fractal_rm.domain.story.tell import tell
from fractal_rm.domain.story.values import (
    Advice,
    Child,
    ComponentNote,
    Event,
    NodeNote,
    RunToTell,
    Story,
)
from fractal_rm.domain.story.waterfall import Lane, Waterfall, waterfall

__all__ = [
    "Advice",
    "Bar",
    "Child",
    "ComponentNote",
    "Event",
    "Lane",
    "NodeNote",
    "RunToTell",
    "StepRow",
    "Story",
    "Waterfall",
    "step_rows",
    "tell",
    "waterfall",
]
