"""The circuit of a component: while most calls to it fail, it gets only one call now and then.

    closed ──too many calls failed──> open ──open_s have passed──> half-open
      ▲                                 ▲                              │
      │                                 ├───────the trial failed───────┤
      └─────────────────────────────────┼──────the trial succeeded─────┘

In half-open there is one trial: a call, or a request to the ``probe`` endpoint of the component.
Calls that began before the circuit changed have no effect on it. This module reads no clock.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

import msgspec

from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import CallFailed, ReplyTooLarge

# A call that the deadline of its run ends is a failure of the component only if the component had
# at least this time. Otherwise the earlier steps of the run may have used up the time.
LEAST_TIME_S = 1.0
SLICES = 10  # the window is counted in this many slices, and the oldest slice is dropped whole


class CircuitRule(msgspec.Struct, frozen=True):
    """When a circuit opens, and for how long.

    It opens if at least ``least_calls`` calls ended in the last ``window_s`` seconds, and at least
    the fraction ``failures`` of them failed. After ``open_s`` seconds there is a trial. Meanwhile,
    at most ``waiting`` calls wait.
    """

    failures: float = 0.5
    window_s: float = 30.0
    least_calls: int = 10
    open_s: float = 10.0
    waiting: int = 100


class CircuitState(str, Enum):
    """Whether calls are made: all of them, none, or one trial."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"

    def __init__(self, text: str) -> None:
        self.text = text


def failure_for_circuit(response: HttpResponse | CallFailed) -> str | None:
    """Why a response counts as a failure of the component. None: the component works.

    No connection, no answer in time, a broken answer and a status from 500 count. Any other status
    and an answer that is too large do not: the component answered. An EXPECT of a flow has no
    effect. The text has no part of the body, which may be secret.
    """
    if isinstance(response, CallFailed):
        return None if isinstance(response, ReplyTooLarge) else response.reason
    return f"status {response.status}" if response.status >= 500 else None


class _Slice(msgspec.Struct):
    number: int
    calls: int = 0
    failures: int = 0


class Circuit:
    """The state of one circuit. ``now_s`` is in seconds on a clock that does not go back.

    ``why`` says why the circuit opened; empty while it is closed.
    """

    def __init__(self, rule: CircuitRule) -> None:
        self.rule = rule
        self.state = CircuitState.CLOSED
        self.why = ""
        self._trial_at_s = 0.0  # if it is open, the time of the next trial
        self._slices: deque[_Slice] = deque()
        self._era = 0  # counts the changes of the state

    def wait_s(self, now_s: float) -> float | None:
        """The seconds until a call may begin. 0: now. None: when the trial has ended."""
        if self.state is CircuitState.CLOSED:
            return 0.0
        if self.state is CircuitState.HALF_OPEN:
            return None
        return max(0.0, self._trial_at_s - now_s)

    def begin(self) -> int:
        """Begin a call for which `wait_s` returned 0. Returns the ticket for `end`.

        If the circuit is not closed, this call is the trial.
        """
        if self.state is not CircuitState.CLOSED:
            self._change(CircuitState.HALF_OPEN)
        return self._era

    def end(self, ticket: int, failure: str | None, now_s: float) -> bool:
        """Count the end of a call. ``failure``: see `failure_for_circuit`.

        Returns whether the circuit has opened or closed; a failed trial is neither.
        """
        if ticket != self._era:
            return False
        if self.state is CircuitState.HALF_OPEN:
            return self._end_trial(failure, now_s)
        calls, failures = self._count(failure is not None, now_s)
        rule = self.rule
        if failure is None or calls < rule.least_calls or failures < rule.failures * calls:
            return False
        self.why = (
            f"{failures} of {calls} calls in the last {rule.window_s:g} s failed,"
            f" the last one: {failure}"
        )
        self._open(now_s)
        return True

    def abandon(self, ticket: int, now_s: float) -> None:
        """End a call that says nothing about the component. The next call is the trial instead."""
        if ticket == self._era and self.state is CircuitState.HALF_OPEN:
            self._open(now_s)
            self._trial_at_s = now_s

    def _end_trial(self, failure: str | None, now_s: float) -> bool:
        if failure is not None:
            self._open(now_s)
            return False
        self.why = ""
        self._change(CircuitState.CLOSED)
        return True

    def _open(self, now_s: float) -> None:
        self._change(CircuitState.OPEN)
        self._slices.clear()
        self._trial_at_s = now_s + self.rule.open_s

    def _change(self, state: CircuitState) -> None:
        self.state = state
        self._era += 1

    def _count(self, has_failed: bool, now_s: float) -> tuple[int, int]:
        """Count a call. Returns the numbers of calls and failures in the window."""
        number = int(now_s / self.rule.window_s * SLICES)
        slices = self._slices
        while slices and slices[0].number <= number - SLICES:
            slices.popleft()
        if not slices or slices[-1].number < number:
            slices.append(_Slice(number))
        slices[-1].calls += 1
        slices[-1].failures += has_failed
        return sum(each.calls for each in slices), sum(each.failures for each in slices)
