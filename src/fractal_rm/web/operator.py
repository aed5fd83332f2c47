"""What the HTTP interface offers to operators. One object for each process.

A new configuration of ``rest`` makes a new `RestService`, which gets the same object. So live
events and actions on many runs go on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fractal_rm.domain.case_report import NO_CASES, CaseReport, CaseText
from fractal_rm.engine.ports.actions import Actions
from fractal_rm.web.bulks import Bulks
from fractal_rm.web.config_check import ConfigCheck
from fractal_rm.web.live import LiveEvents
from fractal_rm.web.processes import Processes
from fractal_rm.web.stories import Stories


async def no_cases(_: str) -> CaseReport:
    """The report of a node without cases."""
    return NO_CASES


async def no_case(_: str) -> CaseText:
    """What a node says that cannot make cases from runs."""
    return CaseText(fault="this node makes no cases")


@dataclass(frozen=True)
class Operator:
    """The parts of the interface for operators.

    ``run_cases`` runs the cases of the configuration folder with a text of flows.conf, which must
    have no errors. ``record_case`` makes a case from the run with an id. ``not_applied`` says why
    changed files are not in force (`Dependencies`).
    """

    live: LiveEvents
    processes: Processes
    configuration: ConfigCheck
    stories: Stories
    actions: Actions
    bulks: Bulks
    run_cases: Callable[[str], Awaitable[CaseReport]] = no_cases
    not_applied: Callable[[], tuple[str, ...]] = tuple
    record_case: Callable[[str], Awaitable[CaseText]] = no_case

    async def stop(self) -> None:
        """End the streams, and stop the actions on many runs."""
        await self.live.stop()
        await self.bulks.close()
