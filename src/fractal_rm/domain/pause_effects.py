"""What happens when a flow is paused or resumed, in sentences, for the page that asks before."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import UNSET

from fractal_rm.domain.flow import Flow, QueueSettings, SubFlow
from fractal_rm.domain.node_status import FlowStatus
from fractal_rm.domain.story.words import count, duration, listed


def effects_of_pause(
    flow: Flow, flows: Mapping[str, Flow], now: FlowStatus, accepted: int, max_waiting: int
) -> list[str]:
    """What a pause of a flow does.

    ``accepted`` is the number of its triggers in the last hour, and ``max_waiting`` how many runs
    of all flows may wait on the node.
    """
    until = "until somebody resumes the flow"
    came_in = f"In the last hour, {accepted:,} came in."
    bound = f"If {max_waiting:,} runs of all flows wait, the node refuses more triggers."
    sentences = [
        f"No run of flow {flow.id} begins, also after a restart of the node, {until}.",
        f"Its triggers are still accepted, and their runs wait. {came_in} {bound}",
    ]
    if now.in_flight:
        which = "The run that is" if now.in_flight == 1 else f"The {now.in_flight:,} runs that are"
        sentences.append(f"{which} in flight {'goes' if now.in_flight == 1 else 'go'} on.")
    if now.waiting:
        verb = "waits" if now.waiting == 1 else "wait"
        sentences.append(f"{count(now.waiting, 'run')} {verb} now, and will go on waiting.")
    parents = [each.id for each in flows.values() if _runs(each, flow.id)]
    if parents:
        word = "Flow" if len(parents) == 1 else "Flows"
        verb = "runs" if len(parents) == 1 else "run"
        sentences.append(
            f"{word} {listed(parents)} {verb} this flow with RUN: such a run is part of its parent,"
            " and is not held back. To hold it back, pause the parent, too."
        )
    return [*sentences, *_ends_of_waiting(flow)]


def effects_of_resume(flow_id: str, now: FlowStatus) -> list[str]:
    """What the end of a pause does."""
    if not now.waiting:
        return [f"Runs of flow {flow_id} begin again. None waits now."]
    verb = "waits now, and begins" if now.waiting == 1 else "wait now, and begin"
    limits = "the limits of the node, of the flow and of the components"
    runs = f"{count(now.waiting, 'run')} of flow {flow_id}"
    return [f"{runs} {verb}: at once as far as {limits} allow, the others later."]


def _runs(flow: Flow, other: str) -> bool:
    return any(isinstance(step, SubFlow) and step.flow == other for step in flow.steps)


def _ends_of_waiting(flow: Flow) -> list[str]:
    """Settings of the flow that end runs while they wait."""
    queueing = QueueSettings() if flow.queueing is UNSET else flow.queueing
    sentences: list[str] = []
    if flow.deadline_ms is not UNSET:
        sentences.append(
            f"A run that waits longer than its DEADLINE, {duration(flow.deadline_ms)}, ends as"
            " expired."
        )
    if queueing.stale_ms is not None:
        sentences.append(
            f"A run that waits longer than STALE, {duration(queueing.stale_ms)}, ends as expired."
        )
    if queueing.latest is not None:
        sentences.append(
            "Of the waiting runs with the same value of LATEST, only the newest is executed."
        )
    return sentences
