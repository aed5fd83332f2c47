"""What a page asks before runs are repeated: with which flow, and from which step."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fractal_rm.domain.actions import Definition
from fractal_rm.domain.flow import Call, Flow, SubFlow
from fractal_rm.domain.repeating import steps_to_repeat_from
from fractal_rm.domain.state import State
from fractal_rm.domain.story.steps import target_of
from fractal_rm.domain.story.words import listed
from fractal_rm.web.api.action_options import StepNumber
from fractal_rm.web.pages.actions.question import Field, Option, Question, handled_before
from fractal_rm.web.pages.actions.subject import Subject


class ReplayQuery(msgspec.Struct, frozen=True):
    """What is chosen at first on the page; None: what suits the run."""

    from_step: StepNumber | None = None
    definition: Definition | None = None


NOTHING_CHOSEN = ReplayQuery()


def ask_replay(subject: Subject, chosen: ReplayQuery) -> Question:
    """What a page asks before it repeats a run."""
    title = "Replay the run"
    if not subject.summary.state.final:
        state = subject.summary.state.text
        return Question(title, obstacle=f"The run has not ended: it is {state}.")
    if subject.summary.state is State.HANDED_OFF:
        return Question(
            title, obstacle=f"Node {subject.summary.node} has the run: replay it there."
        )
    effects = ["A new run is made with the same payload. This run stays as it was."]
    flow = subject.recorded or subject.current
    starts = starts_of([subject], chosen.from_step)
    if flow is not None and not starts:
        effects.append(f"It {calls_from(flow)}.")
    warnings = [*handled_before(subject), *not_twice(subject)]
    fields: list[Field] = []
    if subject.recorded is not None and subject.current is not None and subject.flow_changed:
        advised = any("--current-flow" in each.words for each in subject.story.advice)
        wanted = chosen.definition or (Definition.CURRENT if advised else Definition.RECORDED)
        fields.append(which_flow("As it was when the run began", wanted, _CHANGED))
    elif subject.recorded is None and subject.current is not None:
        fields.append(Field("hidden", "definition", value=Definition.CURRENT.value))
    if starts:
        fields.append(Field("select", "from_step", "Begin with", tuple(starts)))
    if subject.handled is not None:
        fields.append(Field("hidden", "again", value="true"))
    return Question(title, "Replay the run", effects, warnings, fields)


_CHANGED = "The flow has changed since the run began."


def which_flow(recorded: str, wanted: Definition, hint: str) -> Field:
    """The choice of a flow. ``recorded``: what the flow is called that runs began with."""
    return Field("radio", "definition", "Which flow", (
        Option(Definition.RECORDED.value, recorded, is_chosen=wanted is Definition.RECORDED),
        Option(Definition.CURRENT.value, "As it is in flows.conf now",
               is_chosen=wanted is Definition.CURRENT),
    ), hint=hint)  # fmt: skip


def calls_from(flow: Flow, number: int = 1) -> str:
    """What the steps of a flow do from a number on, such as "calls camera and store"."""
    steps = [
        each
        for each in flow.steps
        if isinstance(each, (Call, SubFlow)) and each.number >= number
    ]  # fmt: skip
    names = list(dict.fromkeys(each.component for each in steps if isinstance(each, Call)))
    flows = list(dict.fromkeys(each.flow for each in steps if isinstance(each, SubFlow)))
    parts = [f"calls {listed(names)}"] if names else []
    parts += [f"starts flow {listed(flows)}"] if flows else []
    return " and ".join(parts) if parts else "calls no component"


def not_twice(subject: Subject) -> list[str]:
    """A warning about components that must not be called twice, and were called."""
    notes, run = subject.told.here.components or {}, subject.run
    flow = subject.recorded or subject.current
    begun = {*(run.progress.results if run is not None else ()), *_failed_steps(subject)}
    names = [
        step.component
        for step in (flow.steps if flow is not None else ())
        if isinstance(step, Call) and step.number in begun
        and step.component in notes and not notes[step.component].idempotent
    ]  # fmt: skip
    if not names:
        return []
    which = listed(list(dict.fromkeys(names)))
    text = f"{which} must not be called twice (idempotent: false), and may have done its step."
    return [f"{text} Look there first, or replay from a later step."]


def _failed_steps(subject: Subject) -> list[int]:
    run = subject.run
    failures = {} if run is None else run.progress.failures or {}
    return [int(name.partition(".")[0]) for name in failures if name[:1].isdigit()]


def starts_of(subjects: Sequence[Subject], chosen: int | None) -> list[Option]:
    """The steps with which new runs of one flow can begin; none if it is only the first one.

    With several runs, a step counts if it is possible for one of them. ``chosen``: the step to
    choose at first.
    """
    by_old = {number for each in subjects for number in _possible(each, each.recorded)}
    by_now = {number for each in subjects for number in _possible(each, each.current)}
    flows = [
        flow for each in subjects for flow in (each.recorded, each.current) if flow is not None
    ]
    if not (by_old | by_now):
        return []
    steps = {
        each.number: each
        for flow in reversed(flows)
        for each in flow.steps
        if isinstance(each, (Call, SubFlow))
    }
    newest = next((each.current for each in subjects if each.current is not None), None)
    shown = newest or flows[0]
    is_possible = chosen in by_old | by_now
    found = [Option("", f"the first step: it {calls_from(shown)}", is_chosen=not is_possible)]
    for number in sorted(by_old | by_now):
        only = ""
        if number not in by_now:
            only = ", only with the flow as it was"
        elif number not in by_old:
            only = ", only with the flow as it is now"
        text = f"step {number}: {target_of(steps[number])}, with the earlier results{only}"
        calls = f"it {calls_from(shown, number)}"
        found.append(Option(str(number), f"{text}: {calls}", is_chosen=number == chosen))
    return found


def _possible(subject: Subject, flow: Flow | None) -> list[int]:
    if subject.run is None or flow is None:
        return []
    return steps_to_repeat_from(subject.run, subject.facts, subject.recorded, flow)
