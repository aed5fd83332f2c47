"""Watch the journal and the clocks of a running node, and log what changes."""

from __future__ import annotations

from fractal_rm import RELEASED_MS
from fractal_rm.domain.journal_errors import HistoryDamaged
from fractal_rm.domain.steady import LOGGED_FROM_MS, wall_clock_fault
from fractal_rm.engine.dependencies import Dependencies


class Watch:
    """Looks at the journal and at the clocks. Call its methods again and again."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._blocked_code: str | None = None
        self._damage: str | None = None

    def look_at_journal(self) -> None:
        """Log when the journal cannot write, and when it can write again. Log damage."""
        journal, telemetry = self._dependencies.journal, self._dependencies.telemetry
        journal.check()
        blocked = journal.blocked
        code = blocked and blocked.code
        if code != self._blocked_code:
            self._blocked_code = code
            if blocked is None:
                telemetry.event("journal_writable_again")
            else:
                telemetry.problem(
                    blocked.code.replace("-", "_"), why=blocked.why, cure=blocked.cure
                )
        damage = journal.damage
        if damage is not None and self._damage is None:
            telemetry.problem("history_damaged", what=damage, cure=HistoryDamaged.cure)
        self._damage = damage

    async def look_at_clock(self) -> None:
        """Log changes of the clocks, and fire timers that became due during a suspend."""
        change = self._dependencies.clock.detect_changes()
        telemetry = self._dependencies.telemetry
        if change.slept_ms >= LOGGED_FROM_MS:
            telemetry.event("suspended", for_s=round(change.slept_ms / 1000, 3))
        if abs(change.set_by_ms) >= LOGGED_FROM_MS:
            telemetry.problem("wall_clock_set", by_s=round(change.set_by_ms / 1000, 3))
            self.warn_of_clock()
        self._dependencies.timers.fire_due()
        await self._dependencies.clock.save()

    def warn_of_clock(self) -> None:
        """Log if the wall clock shows an impossible time."""
        fault = wall_clock_fault(self._dependencies.clock.read(), RELEASED_MS)
        if fault is not None:
            self._dependencies.telemetry.problem(
                "wall_clock_doubtful", why=fault, cure="set it, or use NTP"
            )
