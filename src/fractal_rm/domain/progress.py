"""The progress of a run: the results and failures of its steps. Facts change the progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from msgspec import UNSET

from fractal_rm.domain.evaluation_context import ResponseHead
from fractal_rm.domain.facts import (
    ElementFinished,
    Fact,
    Finished,
    Probed,
    RequestStarted,
    StepFailed,
    StepPassed,
    StepUndone,
    WaitStarted,
    request_name,
    undo_request_name,
)
from fractal_rm.domain.probe import ProbeVerdict
from fractal_rm.domain.result import StepResult, result_from_fields


class Progress(msgspec.Struct, gc=False):
    """What the steps of a run have done so far.

    ``results`` has the results by number of the step, in the order in which they arrived.
    ``has_bytes``: whether a result is bytes. ``result_bytes`` is the size of all results. ``heads``
    has the response heads that the flow refers to, by number of the step. ``elements`` has the
    results of the elements of unfinished FOREACH steps, by number of the step and of the element.
    ``in_doubt`` has the names of the requests that may have been sent and have no known outcome.
    ``failures`` has the last failed attempt of each failed request, by name (see `request_name`).
    ``passed_steps`` has the positions of finished steps without a number. ``undone_steps`` has the
    numbers of the steps whose UNDO succeeded. ``last_wait`` is the last WAIT that began.
    ``flow_reply`` is the content of the last REPLY.
    """

    results: dict[int, StepResult] = {}
    has_bytes: bool = False
    result_bytes: int = 0
    heads: dict[int, ResponseHead] | None = None
    elements: dict[int, dict[int, StepResult]] | None = None
    in_doubt: set[str] | None = None
    failures: dict[str, StepFailed] | None = None
    passed_steps: set[int] | None = None
    undone_steps: set[int] | None = None
    last_wait: WaitStarted | None = None
    flow_reply: StepResult | None = None

    @property
    def position(self) -> int:
        """The number of finished steps. With ORDER listed, this is the index of the next step."""
        return len(self.results) + (len(self.passed_steps) if self.passed_steps else 0)

    @property
    def failed_step(self) -> int | None:
        """The number of the last step that failed and is not retried, or None."""
        numbers = [each.step for each in (self.failures or {}).values() if each.final is True]
        return numbers[-1] if numbers and numbers[-1] else None

    @property
    def reply(self) -> StepResult | None:
        """The reply to the sender: the content of the last REPLY, otherwise the last result."""
        if self.flow_reply is not None or not self.results:
            return self.flow_reply
        return self.results[max(self.results)]


class _HasProgress(Protocol):
    """A run, which `domain.run` defines."""

    progress: Progress


def _apply_request_started(run: _HasProgress, fact: RequestStarted) -> None:
    """Add the request to those in doubt, until its outcome is known."""
    progress = run.progress
    name = request_name(fact.step, fact.part)
    if progress.in_doubt is None:
        progress.in_doubt = {name}
    else:
        progress.in_doubt.add(name)


def _apply_probed(run: _HasProgress, fact: Probed) -> None:
    """A request that was not executed is no longer in doubt. Otherwise it is, until its result."""
    in_doubt = run.progress.in_doubt
    if in_doubt and fact.verdict is ProbeVerdict.NOT_DONE:
        in_doubt.discard(request_name(fact.step, fact.part))


def _apply_finished(run: _HasProgress, fact: Finished) -> None:
    """Store the result. The step is no longer in doubt, and the results of its elements go."""
    progress = run.progress
    result = fact.result
    if fact.data is not UNSET:
        result, progress.has_bytes = fact.data, True
    progress.results[fact.step] = result
    progress.result_bytes += len(result)
    if fact.headers is not UNSET:
        head = ResponseHead(fact.status, fact.headers)
        progress.heads = {**(progress.heads or {}), fact.step: head}
    if progress.in_doubt:
        progress.in_doubt.discard(str(fact.step))
    if progress.elements:
        elements = progress.elements.pop(fact.step, {})
        progress.result_bytes -= sum(map(len, elements.values()))


def _apply_element_finished(run: _HasProgress, fact: ElementFinished) -> None:
    """Store the result of an element until the step has its own result."""
    progress = run.progress
    if progress.elements is None:
        progress.elements = {}
    result = result_from_fields(fact.result, fact.data)
    progress.elements.setdefault(fact.step, {})[fact.element] = result
    progress.result_bytes += len(result)
    if progress.in_doubt:
        progress.in_doubt.discard(f"{fact.step}.{fact.element}")


def _apply_step_failed(run: _HasProgress, fact: StepFailed) -> None:
    """Store the failure. The request is no longer in doubt, unless its effect is unknown."""
    progress = run.progress
    name = request_name(fact.step, fact.part)
    if progress.in_doubt and fact.unknown is UNSET:
        progress.in_doubt.discard(name)
    if progress.failures is None:
        progress.failures = {}
    progress.failures[name] = fact


def _apply_wait_started(run: _HasProgress, fact: WaitStarted) -> None:
    run.progress.last_wait = fact


def _apply_step_passed(run: _HasProgress, fact: StepPassed) -> None:
    progress = run.progress
    if progress.passed_steps is None:
        progress.passed_steps = {fact.position}
    else:
        progress.passed_steps.add(fact.position)
    if fact.reply is not UNSET:
        if progress.flow_reply is not None:
            progress.result_bytes -= len(progress.flow_reply)
        progress.flow_reply = result_from_fields(fact.reply, fact.data)
        progress.result_bytes += len(progress.flow_reply)


def _apply_step_undone(run: _HasProgress, fact: StepUndone) -> None:
    """Store that the step is undone. The request of the undo is no longer in doubt."""
    progress = run.progress
    if progress.undone_steps is None:
        progress.undone_steps = {fact.step}
    else:
        progress.undone_steps.add(fact.step)
    if progress.in_doubt:
        progress.in_doubt.discard(undo_request_name(fact.step))


APPLY_TO_PROGRESS: dict[type[Fact], Callable[[Any, Any], None]] = {
    RequestStarted: _apply_request_started,
    Probed: _apply_probed,
    Finished: _apply_finished,
    ElementFinished: _apply_element_finished,
    StepFailed: _apply_step_failed,
    WaitStarted: _apply_wait_started,
    StepPassed: _apply_step_passed,
    StepUndone: _apply_step_undone,
}
