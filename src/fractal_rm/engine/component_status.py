"""What a node says about its components: calls in flight, calls that wait, and circuits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

from msgspec import UNSET

from fractal_rm.domain.circuit import CircuitState
from fractal_rm.domain.flow import Call
from fractal_rm.domain.list_names import MAX_LISTED
from fractal_rm.domain.node_status import ComponentStatus
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE
from fractal_rm.engine.call_gates import CallGates
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.ports import ReadinessCheck

# Looking at so many runs takes a few milliseconds. Then other tasks have a turn.
RUNS_PER_TURN = 2_000


async def component_statuses(
    dependencies: Dependencies, runs: OpenRuns, gates: CallGates
) -> list[ComponentStatus]:
    """One entry for each component of the configuration.

    For a component without a limit, a rate and a circuit, ``in_flight`` counts the runs that are at
    a call of the component, also those that wait for their next attempt. So nothing is counted
    while nobody asks.
    """
    counts = await _runs_at_calls(runs)
    statuses: list[ComponentStatus] = []
    for name, component in dependencies.config.components.items():
        gate = gates.find(name)
        if component.gate is None or gate is None:
            circuit = component.gate and component.gate.circuit
            state = CircuitState.CLOSED.text if circuit else None
            statuses.append(ComponentStatus(name, counts[name], circuit=state))
            continue
        circuit = gate.circuit
        statuses.append(
            ComponentStatus(
                name,
                gate.in_flight,
                gate.waiting,
                circuit=circuit and circuit.state.text,
                since_ms=circuit and gate.changed_ms,
                why=circuit.why if circuit else "",
            )
        )
    return statuses


async def _runs_at_calls(runs: OpenRuns) -> Counter[str]:
    """How many runs are at a call of each component."""
    counts: Counter[str] = Counter()
    snapshot = list(runs)
    for at in range(0, len(snapshot), RUNS_PER_TURN):
        if at:
            await asyncio.sleep(0)
        for run in [each for each in snapshot[at : at + RUNS_PER_TURN] if each.placement is HERE]:
            counts.update(_components_called_now(run))
    return counts


def _components_called_now(run: Run) -> Iterator[str]:
    """The components of the calls that a run makes now."""
    steps = run.flow.steps
    if run.flow.order is UNSET:
        next_steps = steps[run.progress.position :][:1]
        yield from (step.component for step in next_steps if isinstance(step, Call))
        return
    numbers = {name.partition(".")[0] for name in run.progress.in_doubt or ()}
    for step in steps:
        if isinstance(step, Call) and str(step.number) in numbers:
            yield step.component


def circuits_check(dependencies: Dependencies, gates: CallGates) -> ReadinessCheck | None:
    """A check for information: which circuits are open. None: no component has a circuit."""
    texts: list[str] = []
    has_circuit = False
    for name, component in dependencies.config.components.items():
        if component.gate is None or component.gate.circuit is None:
            continue
        has_circuit = True
        gate = gates.find(name)
        circuit = gate and gate.circuit
        if gate and circuit and circuit.state is not CircuitState.CLOSED:
            texts.append(
                f"the circuit of {name} is {circuit.state.text}, {gate.waiting} calls wait:"
                f" {circuit.why}"
            )
    if not has_circuit:
        return None
    if len(texts) > MAX_LISTED:
        texts[MAX_LISTED:] = [f"and {len(texts) - MAX_LISTED:,} more"]
    return ReadinessCheck("components", ok=True, text="; ".join(texts) or "no circuit is open")
