"""What a page asks before an action on one run: what will happen, and what can be chosen."""

from __future__ import annotations

from collections.abc import Callable

from fractal_rm.domain.cancelling import steps_to_undo
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.handoff.decided import is_in_doubt
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.possible_actions import Offer
from fractal_rm.domain.state import State
from fractal_rm.domain.story.steps import Steps
from fractal_rm.domain.story.words import count, listed
from fractal_rm.web.pages.actions.question import Field, Option, Question, handled_before
from fractal_rm.web.pages.actions.replay_question import (
    NOTHING_CHOSEN,
    ReplayQuery,
    ask_replay,
)
from fractal_rm.web.pages.actions.subject import Subject


def question_about(
    subject: Subject, offer: Offer, replay: ReplayQuery = NOTHING_CHOSEN
) -> Question:
    """What a page asks before an action on a run. ``replay``: what is chosen at first."""
    if offer is Offer.REPLAY:
        return ask_replay(subject, replay)
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


def _discard(subject: Subject) -> Question:
    noun = "dead letter" if subject.letter is not None else "run"
    title = f"Discard the {noun}"
    if not subject.summary.state.final:
        state = subject.summary.state.text
        return Question(title, obstacle=f"The run has not ended: it is {state}. Cancel it first.")
    if subject.handled is not None:
        return Question(title, obstacle=handled_before(subject)[0])
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
        handled_before(subject),
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
        handled_before(subject),
        fields,
    )  # fmt: skip


_BY_OFFER: dict[Offer, Callable[[Subject], Question]] = {
    Offer.CANCEL: _cancel,
    Offer.RELEASE: _release,
    Offer.DECIDE_OFFER: _decide_offer,
    Offer.DISCARD: _discard,
    Offer.DECIDE_STEP: _decide_step,
    Offer.SEND: _send,
}
