"""The circuit as a state machine, compared with a model that keeps every call."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import (
    BadReply,
    CallFailed,
    CallTimedOut,
    ConnectFailed,
    ReplyTooLarge,
)
from fractal_rm.domain.circuit import (
    SLICES,
    Circuit,
    CircuitRule,
    CircuitState,
    failure_for_circuit,
)

RULE = CircuitRule(failures=0.5, window_s=10, least_calls=4, open_s=5, waiting=10)
# What happens next: time passes, or a call begins, or a call that has begun ends.
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.sampled_from([0.1, 0.9, 3.0, 5.0, 11.0])),
        st.just(("begin", 0)),
        st.tuples(st.sampled_from(["succeed", "fail", "abandon"]), st.integers(0, 5)),
    ),
    max_size=80,
)


def failed(circuit: Circuit, calls: int, now_s: float = 0.0) -> bool:
    """Let calls fail. Returns whether the circuit is open."""
    for _ in range(calls):
        circuit.end(circuit.begin(), "status 500", now_s)
    return circuit.state is CircuitState.OPEN


def test_a_circuit_opens_when_enough_calls_ended_and_enough_of_them_failed():
    circuit = Circuit(RULE)
    assert not failed(circuit, 3)
    assert failed(circuit, 1)
    assert circuit.why == "4 of 4 calls in the last 10 s failed, the last one: status 500"
    mixed = Circuit(RULE)
    for _ in range(5):
        mixed.end(mixed.begin(), None, 0)
    assert not failed(mixed, 4)
    assert failed(mixed, 1)


def test_failures_before_the_window_do_not_count():
    circuit = Circuit(RULE)
    assert not failed(circuit, 3, 0.0)
    assert not failed(circuit, 3, 10.0)
    assert failed(circuit, 1, 10.0)


def test_a_call_that_began_before_the_circuit_changed_has_no_effect():
    circuit = Circuit(RULE)
    old = circuit.begin()
    assert failed(circuit, 4)
    trial = circuit.begin()
    assert not circuit.end(old, None, 5)
    assert circuit.state is CircuitState.HALF_OPEN
    assert circuit.end(trial, None, 5)
    for _ in range(10):
        assert not circuit.end(old, "status 500", 5)
    assert circuit.state is CircuitState.CLOSED


class Model:
    """A circuit that keeps every call: it counts those in this slice and the nine before."""

    def __init__(self) -> None:
        self.state = CircuitState.CLOSED
        self.changes = 0
        self.trial_at_s = 0.0
        self._ended: list[tuple[int, bool]] = []  # the slice of each call, and whether it failed

    def begin(self) -> int:
        """Begin a call. Returns its ticket: how often the state had changed."""
        if self.state is not CircuitState.CLOSED:
            self._change(CircuitState.HALF_OPEN)
        return self.changes

    def end(self, ticket: int, kind: str, now_s: float) -> None:
        if ticket != self.changes:
            return
        if self.state is CircuitState.HALF_OPEN:
            self.trial_at_s = now_s + (RULE.open_s if kind == "fail" else 0)
            self._change(CircuitState.CLOSED if kind == "succeed" else CircuitState.OPEN)
        elif kind != "abandon":
            number = int(now_s / RULE.window_s * SLICES)
            self._ended.append((number, kind == "fail"))
            failures = [failure for at, failure in self._ended if at > number - SLICES]
            is_over = len(failures) >= RULE.least_calls and sum(failures) * 2 >= len(failures)
            if kind == "fail" and is_over:
                self.trial_at_s = now_s + RULE.open_s
                self._change(CircuitState.OPEN)

    def wait_s(self, now_s: float) -> float | None:
        waits = {CircuitState.CLOSED: 0.0, CircuitState.HALF_OPEN: None}
        return waits.get(self.state, max(0.0, self.trial_at_s - now_s))

    def _change(self, state: CircuitState) -> None:
        self.state, self.changes, self._ended = state, self.changes + 1, []


@given(EVENTS)
def test_the_circuit_does_what_a_model_says_that_keeps_every_call(events):
    circuit, model, now_s = Circuit(RULE), Model(), 100.0
    in_flight: list[tuple[int, int]] = []  # the tickets of the circuit and of the model
    for kind, value in events:
        if kind == "pass":
            now_s += value
        elif kind == "begin":
            if circuit.wait_s(now_s) == 0:
                in_flight.append((circuit.begin(), model.begin()))
        elif in_flight:
            ticket, model_ticket = in_flight.pop(value % len(in_flight))
            model.end(model_ticket, kind, now_s)
            if kind == "abandon":
                circuit.abandon(ticket, now_s)
            else:
                circuit.end(ticket, "status 500" if kind == "fail" else None, now_s)
        assert (circuit.state, circuit.wait_s(now_s)) == (model.state, model.wait_s(now_s))
        assert bool(circuit.why) is (model.state is not CircuitState.CLOSED)


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (ConnectFailed("refused"), "refused"),
        (CallTimedOut("no answer", sent=True), "no answer"),
        (BadReply("not HTTP"), "not HTTP"),
        (CallFailed("reset", sent=True), "reset"),
        (HttpResponse(503, b"", b"a secret"), "status 503"),
        (ReplyTooLarge("9 MiB"), None),
        *((HttpResponse(status, b"", b""), None) for status in (200, 302, 404, 429)),
    ],
)
def test_no_connection_no_answer_and_a_status_from_500_count_as_failures(response, why):
    assert failure_for_circuit(response) == why
