"""The checks of readiness: whether a node accepts triggers, and why not."""

from __future__ import annotations

from fractal_rm import RELEASED_MS
from fractal_rm.domain.steady import wall_clock_fault
from fractal_rm.engine.component_status import circuits_check
from fractal_rm.engine.condition import Condition
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.lifecycle import Lifecycle
from fractal_rm.engine.ports import ReadinessCheck
from fractal_rm.engine.queue import RunQueue


def readiness_checks(
    dependencies: Dependencies, lifecycle: Lifecycle, *, is_serving: bool
) -> list[ReadinessCheck]:
    """Check the engine. From the history on, checks are for information only.

    Triggers are accepted whatever these checks say.
    """
    blocked = dependencies.journal.blocked
    circuits = circuits_check(dependencies, lifecycle.executor.gates)
    return [
        _serving_check(lifecycle.condition, is_serving=is_serving),
        ReadinessCheck("journal", blocked is None, blocked.why if blocked else "writable"),
        _room_check(lifecycle.queue, lifecycle.condition),
        ReadinessCheck(
            "history", ok=True, text=dependencies.journal.damage or "no damage was found"
        ),
        ReadinessCheck(
            "clock",
            ok=True,
            text=wall_clock_fault(dependencies.clock.read(), RELEASED_MS) or "plausible",
        ),
        *([] if circuits is None else [circuits]),
    ]


def _serving_check(condition: Condition, *, is_serving: bool) -> ReadinessCheck:
    if not is_serving:
        return ReadinessCheck("serving", ok=False, text="stopping")
    if condition.draining:
        return ReadinessCheck("serving", ok=False, text="drained by an operator")
    return ReadinessCheck("serving", ok=True, text="serving")


def _room_check(queue: RunQueue, condition: Condition) -> ReadinessCheck:
    load, limits = queue.capacity.load, queue.capacity.limits
    # The three flows with the most runs that wait because of LIMIT.
    flows = queue.waiting_for_permits().most_common(3)
    limit_waits = "".join(f", {count} wait for LIMIT of flow {flow}" for flow, count in flows)
    return ReadinessCheck(
        "room",
        load.waiting < limits.waiting and load.payload_bytes < limits.memory_bytes,
        f"{load.in_flight} runs in flight, {load.waiting} waiting{limit_waits}"
        + (", paused" if condition.paused else ""),
    )
