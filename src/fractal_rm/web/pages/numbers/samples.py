"""What the newest runs say about the balancer and the components, read in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from fractal_rm.config.model import Config
from fractal_rm.domain.facts import Placed, Received
from fractal_rm.domain.flow import Flow, flow_version
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.seen_calls import SeenCall, calls_of
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Clock, History, RunOutline, RunSummary
from fractal_rm.engine.story_of import version_in
from fractal_rm.web.pages.numbers.background import Background

MAX_RUNS = 30  # of one reading
WINDOW_MINUTES = 15  # what was read is kept for this time after the end of the run
MAX_KEPT, MAX_CALLS_KEPT = 600, 100  # runs, and calls of one run
SETTLED_MS = 5_000  # the newest runs are still being written: to read them takes longer
WITHIN_S = 0.5  # for reading all of them
FIND_S = 0.05  # for finding them: other questions to the history wait meanwhile
KEPT_S, SHARE = 5.0, 0.02
ENDED = tuple(state for state in State if state.final)
WAIT_S = 0.1


class SampledRun(msgspec.Struct, frozen=True):
    """A run: its placements, with their times, and its calls. Values are not kept.

    ``sender`` is the node that handed the run off to this node; None: it was not handed off.
    """

    summary: RunSummary
    sender: str | None
    placements: list[tuple[int, Placed]]
    calls: list[SeenCall]

    @property
    def ended_ms(self) -> int:
        """When the run ended, or was accepted, in milliseconds since 1970."""
        return self.summary.settled_ms or self.summary.accepted_ms


class Sample(msgspec.Struct, frozen=True):
    """The runs that were read and ended in the last `WINDOW_MINUTES`.

    The newest is the first. If more ended than can be read, it has only some of them. ``problem``:
    why there are none.
    """

    runs: list[SampledRun]
    problem: str = ""


class Read(msgspec.Struct, frozen=True):
    """Runs that were read. ``is_whole``: there are no others that match."""

    runs: list[SampledRun]
    is_whole: bool


class Samples:
    """Reads the newest runs, while pages want them."""

    def __init__(self, history: History, config: Callable[[], Config], clock: Clock) -> None:
        self._history = history
        self._config = config
        self._clock = clock
        self._kept: dict[str, SampledRun] = {}  # by the id of the run
        self._background = Background(
            lambda: asyncio.to_thread(self._read), KEPT_S, clock.monotonic_s, SHARE
        )

    async def latest(self, wait_s: float = WAIT_S) -> Sample | None:
        """The newest sample, after at most ``wait_s``. None: it is being read."""
        return await self._background.latest(wait_s)

    def _read(self) -> Sample:
        now_ms = self._clock.now_ms()
        try:
            ended = RunFilter(until_ms=now_ms - SETTLED_MS, states=ENDED, dead_letters=False)
            self._keep(self.of(ended), now_ms)
        except JournalError as error:
            return Sample([], str(error))
        return Sample(list(self._kept.values()))

    def _keep(self, newest: list[SampledRun], now_ms: int) -> None:
        """Keep what was read, and forget what is older than the window."""
        read = {run.summary.id: run for run in newest}
        least_ms = now_ms - WINDOW_MINUTES * 60_000
        recent = [run for run in (self._kept | read).values() if run.ended_ms >= least_ms]
        recent.sort(key=lambda run: -run.ended_ms)
        self._kept = {run.summary.id: run for run in recent[:MAX_KEPT]}

    def of(self, run_filter: RunFilter, within_s: float = WITHIN_S) -> list[SampledRun]:
        """The newest runs that match a filter. It blocks. Raises JournalError."""
        return self.read(run_filter, within_s).runs

    def read(self, run_filter: RunFilter, within_s: float = WITHIN_S) -> Read:
        """The same, and whether all were read."""
        ends_s = self._clock.monotonic_s() + within_s
        found = self._history.find(run_filter, limit=MAX_RUNS, within_s=min(FIND_S, within_s))
        flows, sampled = self._config().flows, list[SampledRun]()
        is_whole = found.searched_to_ms is None and found.next is None
        for summary in found.runs:
            if self._clock.monotonic_s() >= ends_s:
                is_whole = False
                break
            kept = self._kept.get(summary.id)
            if kept is not None:
                sampled.append(kept)
            elif (detail := self._history.outline(summary.id)) is not None:
                sampled.append(self._sampled(detail, flows))
        return Read(sampled, is_whole)

    def _sampled(self, detail: RunOutline, flows: Mapping[str, Flow]) -> SampledRun:
        facts = [(each.at_ms, each.fact) for each in detail.facts]
        flow = self._flow(detail, flows)
        senders = [fact.sender for _, fact in facts if isinstance(fact, Received)]
        return SampledRun(
            detail.summary,
            senders[0] if senders else None,
            [(at_ms, fact) for at_ms, fact in facts if isinstance(fact, Placed)],
            [] if flow is None else calls_of(flow, facts)[-MAX_CALLS_KEPT:],
        )

    def _flow(self, detail: RunOutline, flows: Mapping[str, Flow]) -> Flow | None:
        """The flow with which a run began. None: it is not kept."""
        version = version_in(detail)
        if version is None:
            return None
        current = flows.get(detail.summary.flow or "")
        if current is not None and flow_version(current) == version:
            return current
        return self._history.recorded_flow(detail.summary.journal, version)
