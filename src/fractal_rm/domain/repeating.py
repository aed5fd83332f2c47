"""Decides which facts a run that repeats another run begins with: the progress that it takes over.

A repeated run is a new run. The facts of the steps that it does not execute again are copied from
the original, so it begins like a run that has finished these steps itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import UNSET

from fractal_rm.domain.actions import ActionRefused, NoLongerKept, NotPossible, WrongState
from fractal_rm.domain.facts import (
    AnyFact,
    ElementFinished,
    Finished,
    StepPassed,
)
from fractal_rm.domain.flow import Call, CallOptions, Flow, Step, SubFlow
from fractal_rm.domain.in_doubt import calls_in_doubt
from fractal_rm.domain.list_names import list_names
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import OFFERED, State

# Facts that say what a step has done. Other facts of a run are not copied.
_RESULTS = (Finished, ElementFinished, StepPassed)


class Progress(msgspec.Struct, frozen=True):
    """What a repeated run takes over: facts, and the number of the first step that it executes.

    ``from_step`` is None if it executes all steps, or none of those with a number.
    """

    facts: tuple[AnyFact, ...] = ()
    from_step: int | None = None


# --- from a step ----------------------------------------------------------------------------------


def progress_before(
    run: Run, facts: Sequence[AnyFact], recorded: Flow | None, flow: Flow, from_step: int
) -> Progress:
    """The progress of an ended run before a step, for a new run of ``flow``.

    ``recorded`` is the definition with which the ended run began; None: it is not known. Raises
    NotPossible, NoLongerKept.
    """
    position = _position_of(flow, from_step)
    if position is None:
        numbers = [step.number for step in flow.steps if isinstance(step, (Call, SubFlow))]
        steps = f"steps 1 to {numbers[-1]}" if numbers else "no step with a number"
        raise NotPossible(f"flow {flow.id} has no step {from_step}: it has {steps}", run=run.id)
    earlier = flow.steps[:position]
    if not any(isinstance(step, (Call, SubFlow)) for step in earlier):
        return Progress()
    if recorded is None:
        raise NoLongerKept(
            f"the definition of flow {flow.id} with which run {run.id} began is not kept, so the"
            " results of its steps cannot be used; repeat the whole run",
            run=run.id,
        )
    _check_same_steps(run, recorded, earlier)
    _check_done(run, earlier)
    numbers = {step.number for step in earlier if isinstance(step, (Call, SubFlow))}
    copied = [
        fact
        for fact in facts
        if (isinstance(fact, Finished) and fact.step in numbers)
        or (isinstance(fact, StepPassed) and fact.position < position)
    ]
    return Progress(_complete(run, copied), from_step)


def steps_to_repeat_from(
    run: Run, facts: Sequence[AnyFact], recorded: Flow | None, flow: Flow
) -> list[int]:
    """The numbers of the steps from which an ended run can be repeated with earlier results."""
    numbers = [step.number for step in flow.steps if isinstance(step, (Call, SubFlow))]
    return [each for each in numbers if _takes_over(run, facts, recorded, flow, each)]


def _takes_over(
    run: Run, facts: Sequence[AnyFact], recorded: Flow | None, flow: Flow, from_step: int
) -> bool:
    try:
        return bool(progress_before(run, facts, recorded, flow, from_step).facts)
    except ActionRefused:
        return False


def has_same_beginning(recorded: Flow, flow: Flow, from_step: int) -> bool:
    """Whether a run of ``flow`` from a step can use the results of a run of ``recorded``."""
    position = _position_of(flow, from_step)
    if position is None or position > len(recorded.steps):
        return False
    pairs = zip(recorded.steps[:position], flow.steps[:position], strict=True)
    return all(
        _what_is_done(done) == _what_is_done(step) and _kept_headers(step) <= _kept_headers(done)
        for done, step in pairs
    )


def _position_of(flow: Flow, number: int) -> int | None:
    """The index of the step with a number in the steps of a flow."""
    for position, step in enumerate(flow.steps):
        if isinstance(step, (Call, SubFlow)) and step.number == number:
            return position
    return None


def _check_same_steps(run: Run, recorded: Flow, earlier: Sequence[Step]) -> None:
    """Raise NotPossible if a step before the first one to execute is not what the run has done."""
    for position, step in enumerate(earlier):
        done = recorded.steps[position] if position < len(recorded.steps) else None
        if done is None or _what_is_done(done) != _what_is_done(step):
            raise NotPossible(
                f"{_name_of(step)} is not the step that run {run.id} has done: the flow has changed"
                " since. Use the flow as it was then, or repeat the whole run",
                run=run.id,
            )
        if not _kept_headers(step) <= _kept_headers(done):
            raise NotPossible(
                f"a later step uses the status or a header of the answer to {_name_of(step)}, which"
                f" run {run.id} has not kept. Use the flow as it was then, or repeat the whole run",
                run=run.id,
            )


def _what_is_done(step: Step) -> Step:
    """The step without what its result does not depend on, such as its line in flows.conf."""
    step = msgspec.structs.replace(step, line=0)
    if isinstance(step, SubFlow):
        return msgspec.structs.replace(step, name="")
    if not isinstance(step, Call) or step.options is UNSET:
        return step
    options = msgspec.structs.replace(
        step.options, name="", timeout_ms=None, retry=None, kept_headers=None, undo=None
    )
    return msgspec.structs.replace(step, options=UNSET if options == CallOptions() else options)


def _kept_headers(step: Step) -> set[str]:
    """What is kept of the answer to a call: the names of headers, and "" for the status."""
    if not isinstance(step, Call) or step.options is UNSET or step.options.kept_headers is None:
        return set()
    return {"", *step.options.kept_headers}


def _check_done(run: Run, earlier: Sequence[Step]) -> None:
    """Raise NotPossible if run ``run`` has no result of an earlier step."""
    progress = run.progress
    for position, step in enumerate(earlier):
        if isinstance(step, (Call, SubFlow)):
            if step.number in (progress.undone_steps or ()):
                raise NotPossible(
                    f"step {step.number} of run {run.id} was undone, so it must be executed again",
                    run=run.id,
                )
            is_done = step.number in progress.results
        else:
            is_done = position in (progress.passed_steps or ())
        if not is_done:
            raise NotPossible(
                f"run {run.id} has not finished {_name_of(step)}, which must come first",
                run=run.id,
            )


def _name_of(step: Step) -> str:
    if isinstance(step, (Call, SubFlow)):
        return f"step {step.number}"
    return f"the {type(step).__name__.upper()}"


def _complete(run: Run, facts: Iterable[AnyFact]) -> tuple[AnyFact, ...]:
    """The facts, if all of their values are kept. Raises NoLongerKept."""
    copied = tuple(facts)
    for fact in copied:
        if isinstance(fact, _RESULTS) and fact.omitted is not UNSET:
            name = "a REPLY" if isinstance(fact, StepPassed) else f"step {fact.step}"
            raise NoLongerKept(
                f"the result of {name} of run {run.id} is not kept (KEEP or MASK of its flow);"
                " repeat the whole run",
                run=run.id,
            )
    return copied


# --- after a decision about a step in doubt -------------------------------------------------------


def progress_after_decision(
    run: Run, facts: Sequence[AnyFact], flow: Flow, result: msgspec.Raw | None
) -> Progress:
    """The progress of a run that ended as unknown, for a new run that continues it.

    ``result`` is the result of the step in doubt; None: the step was not done. Raises WrongState,
    NotPossible, NoLongerKept.
    """
    step, element = _step_in_doubt(run, flow)
    kept = [fact for fact in facts if isinstance(fact, _RESULTS) and not _is_superseded(fact, run)]
    copied = _complete(run, kept)
    if result is None:
        return Progress(copied, step.number)
    text = _result_of(step, result)
    if element is None:
        done: AnyFact = Finished(step.number, 0, 0, text)
    else:
        done = ElementFinished(step.number, element, 0, 0, text)
    later = [each.number for each in flow.steps if isinstance(each, (Call, SubFlow))]
    next_step = next((number for number in later if number > step.number), None)
    return Progress((*copied, done), next_step if element is None else step.number)


def _is_superseded(fact: AnyFact, run: Run) -> bool:
    """Whether a result of an element is not needed: the step has its own result."""
    return isinstance(fact, ElementFinished) and fact.step in run.progress.results


def _step_in_doubt(run: Run, flow: Flow) -> tuple[Call | SubFlow, int | None]:
    """The step in doubt, and the element of a FOREACH. Raises WrongState, NotPossible."""
    if run.state is not State.UNKNOWN:
        raise WrongState(
            f"run {run.id} is {run.state.value}; only a run that ended as unknown has a step in"
            " doubt",
            run=run.id,
            state=run.state,
        )
    if run.placement in OFFERED:
        raise WrongState(
            f"run {run.id} was offered to node {run.node}, and no step of it is in doubt here: look"
            " for the run there. If that node does not have it, repeat the run",
            run=run.id,
            state=run.state,
            node=run.node,
        )
    if run.progress.undone_steps or run.stopping is not None:
        raise WrongState(
            f"the finished steps of run {run.id} were undone; repeat the whole run",
            run=run.id,
            state=run.state,
        )
    names = _names_in_doubt(run, flow)
    if len(names) != 1:
        found = f"calls {list_names(names)} are" if names else "no step of it is known to be"
        raise NotPossible(
            f"run {run.id} cannot be continued: {found} in doubt. Repeat the run, the whole or from"
            " a step",
            run=run.id,
        )
    number, _, element = names[0].partition(".")
    position = _position_of(flow, int(number))
    step = None if position is None else flow.steps[position]
    if not isinstance(step, (Call, SubFlow)):
        raise NotPossible(f"flow {flow.id} has no step {number}", run=run.id)
    return step, int(element) if element else None


def _names_in_doubt(run: Run, flow: Flow) -> list[str]:
    """The names of the requests in doubt. A RUN step is in doubt if its child run is unknown."""
    failures = (run.progress.failures or {}).items()
    names = [*calls_in_doubt(run)]
    names += [name for name, last in failures if last.unknown is True and name not in names]
    if not names and flow.order is UNSET:
        for step in flow.steps[run.progress.position :][:1]:
            if isinstance(step, SubFlow):
                names.append(str(step.number))
    return names


def _result_of(step: Call | SubFlow, result: msgspec.Raw) -> msgspec.Raw:
    """The result of a step that was done, as `Finished` has it.

    The result of a call is the text of its response: a JSON string is this text, null means that
    the text is empty, and any other JSON is itself the text.
    """
    if isinstance(step, SubFlow):
        return result
    content = bytes(result)
    if content == b"null":
        return msgspec.Raw(b'""')
    if content.startswith(b'"'):
        return result
    return msgspec.Raw(msgspec.json.encode(content.decode()))
