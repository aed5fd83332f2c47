"""The time that a run has left."""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.domain.run import Run


def time_left_ms(run: Run, steady_ms: int) -> int | None:
    """Milliseconds until the time limit of its sender or its flow, whichever comes first.

    Both count from the acceptance, on the steady clock. Negative after the limit; None: no limit.
    """
    limits = [] if run.flow.deadline_ms is UNSET else [run.flow.deadline_ms]
    if run.budget_ms is not None:
        limits.append(run.budget_ms)
    return min(limits) - max(0, steady_ms - run.steady_ms) if limits else None
