"""What a node says about its components: calls in flight, calls that wait, and circuits."""

from __future__ import annotations

from collections import Counter

from fractal_rm.domain.circuit import CircuitState
from fractal_rm.domain.list_names import MAX_LISTED
from fractal_rm.domain.node_status import ComponentStatus
from fractal_rm.engine.call_gates import CallGates
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.ports import ReadinessCheck


def component_statuses(
    dependencies: Dependencies, counts: Counter[str], gates: CallGates
) -> list[ComponentStatus]:
    """One entry for each component of the configuration.

    ``counts`` says how many runs are at a call of each component, also those that wait for their
    next attempt. It is used for a component without a limit, a rate and a circuit: nothing is
    counted while nobody asks.
    """
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
