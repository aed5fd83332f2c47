"""The time within which a run must end."""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.domain.run import Run


def time_left_ms(run: Run, steady_ms: int) -> int | None:
    """Milliseconds until a run must end; negative after that time; None if there is no limit.

    The sender and the flow can both set a limit. The shorter one applies. It is counted from the
    acceptance of the run, on the steady clock.
    """
    limits = [] if run.flow.deadline_ms is UNSET else [run.flow.deadline_ms]
    if run.accepted.budget_ms is not UNSET:
        limits.append(run.accepted.budget_ms)
    return min(limits) - max(0, steady_ms - run.steady_ms) if limits else None
