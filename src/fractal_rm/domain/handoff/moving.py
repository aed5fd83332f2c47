"""Which runs may move to another node, and the progress that they take with them."""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.domain.facts import Finished, StepPassed
from fractal_rm.domain.flow import SubFlow
from fractal_rm.domain.handoff.messages import FinishedSteps
from fractal_rm.domain.result import fields_of_result
from fractal_rm.domain.run import Run
from fractal_rm.domain.run_id import is_continuation


def can_move(run: Run) -> bool:
    """Whether a drained node may offer this waiting run to another node.

    A run with a request in doubt, a failed attempt, an undo or a running WAIT stays, and so does a
    run that starts other runs: another node would not know what these have done. A run that was
    returned stays where it began. A run that was received from a node without an id stays, too: it
    cannot be returned, and a received run is not sent on.
    """
    progress = run.progress
    last_wait = progress.last_wait
    has_wait = last_wait is not None and last_wait.position not in (progress.passed_steps or ())
    return not (
        is_continuation(run.id)
        or (run.accepted.source == "peer" and run.sender is None)
        or run.stopping is not None
        or run.replying is not None
        or run.accepted.origin is not UNSET
        or progress.in_doubt
        or progress.failures
        or progress.elements
        or progress.undone_steps
        or has_wait
        or any(isinstance(step, SubFlow) for step in run.flow.steps)
    )


def finished_steps(run: Run) -> FinishedSteps:
    """The finished steps of a run with their results, as facts without their durations."""
    progress = run.progress
    steps: list[Finished | StepPassed] = []
    for number, result in progress.results.items():
        head = (progress.heads or {}).get(number)
        json, data = fields_of_result(result)
        status, headers = (0, UNSET) if head is None else (head.status, dict(head.headers))
        steps.append(Finished(number, status, 0, json, headers, data))
    passed = sorted(progress.passed_steps or ())
    for position in passed:
        is_last = position == passed[-1]
        if is_last and progress.flow_reply is not None:
            reply, data = fields_of_result(progress.flow_reply)
            steps.append(StepPassed(position, reply, data))
        else:
            steps.append(StepPassed(position))
    return tuple(steps)
