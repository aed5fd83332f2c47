"""What can be chosen before many runs are repeated, from what the newest of them have done."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fractal_rm.domain.actions import Definition
from fractal_rm.web.pages.actions.bulk_form import BulkQuery
from fractal_rm.web.pages.actions.question import Field
from fractal_rm.web.pages.actions.replay_question import (
    calls_from,
    not_twice,
    starts_of,
    which_flow,
)
from fractal_rm.web.pages.actions.subject import Subject, read_subject
from fractal_rm.web.pages.frame.site import Site
from fractal_rm.web.pages.frame.text_filters import Zone

MOST_READ = 3  # runs that are read whole
_HINT = (
    "Those that have not finished the steps before it, and those whose results are not kept, are"
    " refused; the others go on."
)


class Choices(msgspec.Struct, frozen=True):
    """The fields of the form, what will happen in addition, and what may go wrong."""

    fields: list[Field] = []
    effects: list[str] = []
    warnings: list[str] = []


def choices_of(
    site: Site, query: BulkQuery, newest: Sequence[str], *, is_one_flow: bool
) -> Choices:
    """What can be chosen. ``newest``: runs of those that are meant. Blocks: it reads the disk.

    Only runs of one flow can begin with a later step.
    """
    ids = list(dict.fromkeys(newest))[:MOST_READ]
    zone = Zone.of("")
    read = [read_subject(site, run, zone, shows_values=False) for run in ids]
    subjects = [each for each in read if each is not None]
    fields = [_definition(query, subjects)]
    starts = starts_of(subjects, _advised(query, subjects)) if is_one_flow else []
    effects: list[str] = []
    if starts:
        fields.append(Field("select", "from_step", "Begin with", tuple(starts), hint=_HINT))
    else:
        flows = {
            flow.id: flow
            for each in subjects
            if (flow := each.current or each.recorded) is not None
        }
        effects = [f"A run of flow {flow.id} {calls_from(flow)}." for flow in flows.values()]
    warnings = dict.fromkeys(text for each in subjects for text in not_twice(each))
    return Choices(fields, effects, list(warnings))


def _definition(query: BulkQuery, subjects: Sequence[Subject]) -> Field:
    """The choice of the flow: the one in flows.conf, if it has changed since they began."""
    changed = [each for each in subjects if each.flow_changed]
    wanted = query.definition
    if wanted is None:
        is_there = bool(changed) and all(each.current is not None for each in changed)
        wanted = Definition.CURRENT if is_there else Definition.RECORDED
    hint = ""
    if changed:
        which = "these runs" if len(changed) == len(subjects) else "some of these runs"
        hint = f"The flow has changed since {which} began."
    return which_flow("As it was when each run began", wanted, hint)


def _advised(query: BulkQuery, subjects: Sequence[Subject]) -> int | None:
    """The step to begin with: the one that was asked for, or the one that failed in all of them."""
    if query.from_step is not None or not subjects:
        return query.from_step
    steps = {_step_of(each) for each in subjects}
    return steps.pop() if len(steps) == 1 else None


def _step_of(subject: Subject) -> int | None:
    """The step from which the advice for a run repeats it."""
    for advice in subject.story.advice:
        if "--from-step" in advice.words:
            return int(advice.words[advice.words.index("--from-step") + 1])
    return None
