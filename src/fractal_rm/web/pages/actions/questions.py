"""What a page asks before an action on one run: what will happen, and what can be chosen."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from fractal_rm.domain.actions import Definition
from fractal_rm.domain.cancelling import steps_to_undo
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.flow import Call, Flow, SubFlow
from fractal_rm.domain.handoff.decided import is_in_doubt
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.possible_actions import Offer
from fractal_rm.domain.repeating import steps_to_repeat_from
from fractal_rm.domain.state import State
from fractal_rm.domain.story.steps import Steps, target_of
from fractal_rm.domain.story.words import count, listed
from fractal_rm.web.pages.actions.subject import Subject


class Option(msgspec.Struct, frozen=True):
    """One of the values of a field."""

    value: str
    label: str
    is_chosen: bool = False


class Field(msgspec.Struct, frozen=True):
    """A field of a form. ``kind``: ``radio``, ``select``, ``text``, ``area`` or ``hidden``."""

    kind: str
    name: str
    label: str = ""
    options: tuple[Option, ...] = ()
    value: str = ""
    hint: str = ""


class Question(msgspec.Struct, frozen=True):
    """What a page asks. ``effects`` say what will happen; ``warnings`` what may go wrong.

    ``obstacle``: why the action is not possible now; then there is no form.
    """

    title: str
    button: str = ""
    effects: list[str] = []
    warnings: list[str] = []
    fields: list[Field] = []
    obstacle: str = ""


def question_about(subject: Subject, offer: Offer) -> Question:
    """What a page asks before an action on a run."""
    return _BY_OFFER[offer](subject)


def _named(steps: Steps, numbers: list[int]) -> str:
    return listed([steps.name(number) for number in numbers])


# --- open runs ------------------------------------------------------------------------------------


def _how_it_ended(subject: Subject) -> str:
    """How a run ended, who asked for it, and when."""
    summary = subject.summary
    ends = [each.actor for each in subject.facts if isinstance(each, Settled)]
    text = f"It has ended as {summary.state.text}"
    if ends and isinstance(ends[-1], str):
        text += f", as {ends[-1].removeprefix('token ')} asked"
    return f"{text}, at {subject.told.clock(summary.settled_ms or summary.accepted_ms)}."


def _cancel(subject: Subject) -> Question:
    summary, run = subject.summary, subject.run
    title = "Cancel the run"
    if summary.state.final:
        return Question(title, obstacle=_how_it_ended(subject))
    if summary.state is State.OFFERED:
        why = f"The run is offered to node {summary.node}, which may have it: decide this first."
        return Question(title, obstacle=why)
    if summary.parent is not None:
        why = "A RUN step of another run has started this run: cancel that run instead."
        return Question(title, obstacle=why)
    steps = Steps(subject.told)
    undone = [] if run is None else steps_to_undo(run)
    open_children = [each for each in subject.told.children if not each.state.final]
    effects: list[str] = []
    fields: list[Field] = []
    if open_children:
        effects.append(
            f"{count(len(open_children), 'run')} that it has started are cancelled, too."
        )
    if summary.state is State.RUNNING:
        effects.append("The run is being executed: it ends after its current step.")
        fields.append(_CUT)
    else:
        effects.append("The run only waits: it ends at once, and its next step is not begun.")
    if undone:
        names = _named(steps, undone)
        fields.append(
            Field("radio", "undo", "Finished steps", (
                Option("true", f"Undo {names}", is_chosen=True),
                Option("false", "Leave them as they are"),
            ))
        )  # fmt: skip
    effects.append("It can be repeated later as a new run.")
    return Question(title, "Cancel the run", effects, fields=fields)


_CUT = Field(
    "radio", "cut", "The current step", (
        Option("false", "Wait for its answer", is_chosen=True),
        Option("true", "End the call at once: it is then not known whether the component did it"),
    ),
)  # fmt: skip


def _release(subject: Subject) -> Question:
    title = "Release the run"
    if subject.summary.state is not State.PARKED:
        state = subject.summary.state.text
        return Question(title, obstacle=f"Only a parked run is released. This run is {state}.")
    if is_in_doubt(subject.summary.state, subject.facts):
        return Question(
            title,
            obstacle=f"Node {subject.summary.node} may have this run: decide this first.",
        )
    return Question(
        title,
        "Release the run",
        ["The run goes on after its last finished step, as soon as it is its turn."],
        ["It was parked so that a person looks first: may it still be executed?"],
    )


def _decide_offer(subject: Subject) -> Question:
    title, node = "Decide the offer", subject.summary.node
    if not is_in_doubt(subject.summary.state, subject.facts):
        state = subject.summary.state.text
        return Question(title, obstacle=f"The run is {state}: no other node may have it.")
    return Question(
        title,
        "Record the decision",
        [f"The run was offered to node {node}, and no answer came. Look for the run there first."],
        [
            f"If node {node} has the run and you let it run here, it is executed twice.",
            f"If node {node} does not have it and you say that it does, it is never executed.",
        ],
        [
            Field("radio", "decision", "Where is the run?", (
                Option(Decision.TAKEN.value, f"Node {node} has it: it ends here"),
                Option(Decision.RUN_HERE.value, f"Node {node} does not have it: execute it here"),
            )),
        ],
    )  # fmt: skip


# --- ended runs -----------------------------------------------------------------------------------


def _replay(subject: Subject) -> Question:
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
    if flow is not None:
        effects.append(_calls(flow))
    warnings = [*_handled_before(subject), *_not_twice(subject, flow)]
    return Question(title, "Replay the run", effects, warnings, _replay_fields(subject))


def _calls(flow: Flow) -> str:
    names = list(dict.fromkeys(step.component for step in flow.steps if isinstance(step, Call)))
    flows = list(dict.fromkeys(step.flow for step in flow.steps if isinstance(step, SubFlow)))
    parts = [f"calls {listed(names)}"] if names else []
    parts += [f"starts flow {listed(flows)}"] if flows else []
    return f"It {' and '.join(parts)}." if parts else "It calls no component."


def _not_twice(subject: Subject, flow: Flow | None) -> list[str]:
    """A warning about components that must not be called twice, and were called."""
    notes, run = subject.told.here.components or {}, subject.run
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


def _handled_before(subject: Subject) -> list[str]:
    handled = subject.handled
    if handled is None:
        return []
    who = (handled.actor or "an operator").removeprefix("token ")
    what = "discarded" if handled.by_run is None else "repeated"
    return [f"It was {what} before, by {who} at {subject.told.clock(handled.at_ms)}."]


def _replay_fields(subject: Subject) -> list[Field]:
    fields: list[Field] = []
    advised = any("--current-flow" in each.words for each in subject.story.advice)
    if subject.recorded is not None and subject.current is not None and subject.flow_changed:
        fields.append(
            Field("radio", "definition", "Which flow", (
                Option(Definition.RECORDED.value, "As it was when the run began",
                       is_chosen=not advised),
                Option(Definition.CURRENT.value, "As it is in flows.conf now",
                       is_chosen=advised),
            ), hint="The flow has changed since the run began.")
        )  # fmt: skip
    elif subject.recorded is None and subject.current is not None:
        fields.append(Field("hidden", "definition", value=Definition.CURRENT.value))
    starts = _starts(subject)
    if len(starts) > 1:
        fields.append(Field("select", "from_step", "Begin with", tuple(starts)))
    if subject.handled is not None:
        fields.append(Field("hidden", "again", value="true"))
    return fields


def _starts(subject: Subject) -> list[Option]:
    """The steps with which the new run can begin."""
    found = [Option("", "the first step", is_chosen=True)]
    if subject.run is None:
        return found
    old, now = subject.recorded, subject.current
    by_old = _possible(subject, old)
    by_now = _possible(subject, now) if subject.flow_changed else by_old
    steps = {
        each.number: each
        for flow in (now, old)
        if flow is not None
        for each in flow.steps
        if isinstance(each, (Call, SubFlow))
    }
    for number in sorted({*by_old, *by_now}):
        only = ""
        if number not in by_now:
            only = ", only with the flow as it was"
        elif number not in by_old:
            only = ", only with the flow as it is now"
        found.append(Option(str(number), f"step {number}: {target_of(steps[number])}{only}"))
    return found


def _possible(subject: Subject, flow: Flow | None) -> list[int]:
    if subject.run is None or flow is None:
        return []
    return steps_to_repeat_from(subject.run, subject.facts, subject.recorded, flow)


def _discard(subject: Subject) -> Question:
    noun = "dead letter" if subject.letter is not None else "run"
    title = f"Discard the {noun}"
    if not subject.summary.state.final:
        state = subject.summary.state.text
        return Question(title, obstacle=f"The run has not ended: it is {state}. Cancel it first.")
    if subject.handled is not None:
        return Question(title, obstacle=_handled_before(subject)[0])
    return Question(
        title,
        f"Discard the {noun}",
        [f"The {noun} is marked: it needs no more attention, and is no longer counted as trouble.",
         "It stays in the history, and can still be "
         + ("sent." if subject.letter is not None else "replayed.")],
        fields=[Field("text", "note", "Note", hint="Why. It is kept with the run.")],
    )  # fmt: skip


def _decide_step(subject: Subject) -> Question:
    title = "Decide the step in doubt"
    if subject.summary.state is not State.UNKNOWN:
        state = subject.summary.state.text
        return Question(title, obstacle=f"The run is {state}: no step of it is in doubt.")
    fields = [
        Field("radio", "done", "Has the component done the step?", (
            Option("true", "Yes: go on after it"),
            Option("false", "No: repeat the step"),
        )),
        Field("area", "result", "The result of the step, if it was done", hint="JSON. Left empty,"
              " the result is null. Later steps use it."),
    ]  # fmt: skip
    if subject.handled is not None:
        fields.append(Field("hidden", "again", value="true"))
    return Question(
        title,
        "Record the decision",
        ["Look at the component first: nobody else can know it.",
         "The run goes on as a new run, with the results of the earlier steps."],
        _handled_before(subject),
        fields,
    )  # fmt: skip


def _send(subject: Subject) -> Question:
    title, letter = "Send the message again", subject.letter
    if letter is None:
        return Question(title, obstacle="This is a run, not a dead letter: it can be replayed.")
    fields = [Field("hidden", "again", value="true")] if subject.handled is not None else []
    return Question(
        title,
        "Send again",
        ["The message is sent as it arrived, and becomes a new run if it is accepted now.",
         "The dead letter stays as it was."],
        _handled_before(subject),
        fields,
    )  # fmt: skip


_BY_OFFER: dict[Offer, Callable[[Subject], Question]] = {
    Offer.CANCEL: _cancel,
    Offer.RELEASE: _release,
    Offer.DECIDE_OFFER: _decide_offer,
    Offer.REPLAY: _replay,
    Offer.DISCARD: _discard,
    Offer.DECIDE_STEP: _decide_step,
    Offer.SEND: _send,
}
