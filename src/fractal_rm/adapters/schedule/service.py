"""The way in by time: fires what is due. Each moment is one trigger, admitted as any other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec
from msgspec import UNSET

from fractal_rm.adapters.schedule.progress_file import ProgressFile
from fractal_rm.adapters.schedule.rules import rules_of
from fractal_rm.adapters.schedule.timetable import Timetable
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.flow_errors import BadSchedule
from fractal_rm.domain.refusals import Draining, KeyReused, Malformed, Refused
from fractal_rm.domain.trigger import Arrival, TriggerSource
from fractal_rm.engine.ports import Clock, Intake, ReadinessCheck, Telemetry, WayIn

LONGEST_PAUSE_S = 1.0  # a wall clock can jump without notice
SAVE_EVERY_S = 1.0
SUSPENDED_MS = 1_000  # in a shorter suspend no moment was missed


class Schedules:
    """Port `WayIn`. Progress is saved in the state folder, at most a second late.

    After a crash a moment can be fired again. It identifies its run, so it is still one run.
    """

    takes_over = False

    def __init__(
        self,
        intake: Intake,
        state_path: Path,
        clock: Clock,
        telemetry: Telemetry,
        *,
        flows: Callable[[], Mapping[str, Flow]],
    ) -> None:
        self._intake = intake
        self._file = ProgressFile(state_path)
        self._saved_s = float("-inf")
        self._clock = clock
        self._telemetry = telemetry
        self._flows = flows
        self._timetables: dict[str, Timetable] = {}
        self._delayed: set[str] = set()  # timetables whose last moment found no room
        self._running: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._suspended_ms = self._total_suspended_ms()

    async def start(self, before: WayIn | None = None) -> None:  # noqa: ARG002 - was stopped
        """Continue where the last process stopped."""
        await self.load()
        self._running = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Fire no more, and save the progress."""
        running, self._running = self._running, None
        if running is None:
            return
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await self.save()

    def status(self) -> ReadinessCheck:
        """Whether it is running; a node without schedules has zero of them."""
        count = len(self._timetables)
        return ReadinessCheck("schedules", ok=self._running is not None, text=f"{count} of them")

    def reconfigured(self) -> None:
        """Apply the rules of the flows in force; unchanged rules keep their progress."""
        self._set_timetables({})
        self._changed.set()

    async def load(self) -> None:
        """Read the progress of the last process."""
        self._set_timetables(await asyncio.to_thread(self._read))

    async def save(self) -> None:
        """Write the progress, if it has changed."""
        progress = {name: each.remembered for name, each in self._timetables.items()}
        if self._file.has(progress):
            return
        self._saved_s = self._clock.monotonic_s()
        try:
            await asyncio.to_thread(self._file.save, progress)
        except OSError as error:
            path = str(self._file.path)
            self._telemetry.problem("schedules_not_saved", path=path, reason=str(error))

    async def look(self) -> None:
        """Fire what is due now."""
        if self._was_suspended():
            for timetable in self._timetables.values():
                timetable.resumed()
        for timetable in list(self._timetables.values()):
            due = timetable.look(self._clock.now_ms(), self._clock.steady_ms())
            if due.jumped_ms:
                self._telemetry.problem(
                    "clock_jumped", by_ms=due.jumped_ms, schedule=timetable.name
                )
            if due.skipped:
                self._telemetry.problem(
                    "schedule_skipped", schedule=timetable.name, at_least=due.skipped
                )
            if due.moments:
                await self._fire(timetable, due.moments)

    def _was_suspended(self) -> bool:
        """Whether the machine was suspended since the last look."""
        before_ms, self._suspended_ms = self._suspended_ms, self._total_suspended_ms()
        return self._suspended_ms - before_ms >= SUSPENDED_MS

    def _total_suspended_ms(self) -> float:
        """The time in all suspends, plus a constant."""
        return self._clock.steady_ms() - self._clock.monotonic_s() * 1000

    def _set_timetables(self, remembered: Mapping[str, Sequence[int]]) -> None:
        """Raises OSError if no file descriptor is free for a time zone; nothing has changed then.

        ``remembered`` is the progress of timetables that are new.
        """
        now_ms, steady_ms = self._clock.now_ms(), self._clock.steady_ms()
        timetables: dict[str, Timetable] = {}
        for flow in self._flows().values():
            if flow.starts is UNSET:
                continue
            try:
                rules = rules_of(flow)
            except BadSchedule as error:
                self._telemetry.problem("schedule_unreadable", flow=flow.id, reason=str(error))
                continue
            catch_up = flow.starts.catch_up
            for rule in rules:
                name = f"{flow.id} {rule.name}"
                timetable = self._timetables.get(name)
                if timetable is None:
                    kept = remembered.get(name, ())
                    timetable = Timetable(flow.id, rule, catch_up, kept, now_ms, steady_ms)
                timetable.catch_up = catch_up
                timetables[name] = timetable
        self._timetables = timetables

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
                if self._clock.monotonic_s() - self._saved_s >= SAVE_EVERY_S:
                    await self.save()
            except Exception as error:  # noqa: BLE001 - the top of the task
                # If this task ended, no flow would start by time any more.
                self._telemetry.problem("schedules_failed", error=repr(error), exc_info=error)
                await asyncio.sleep(LONGEST_PAUSE_S)
            await self._wait_for_next_look()

    async def _wait_for_next_look(self) -> None:
        now_ms, steady_ms = self._clock.now_ms(), self._clock.steady_ms()
        dues = [
            each.due_in_s(now_ms, steady_ms)
            for name, each in self._timetables.items()
            if name not in self._delayed
        ]
        pause_s = min([LONGEST_PAUSE_S, *(max(0.0, due) for due in dues)])
        # Without schedules, wait until the configuration changes.
        try:
            await asyncio.wait_for(self._changed.wait(), pause_s if self._timetables else None)
        except asyncio.TimeoutError:
            return
        self._changed.clear()

    async def _fire(self, timetable: Timetable, moments: tuple[int, ...]) -> None:
        """Fire in order, until one is refused for now: that one and the rest are tried again."""
        ahead_ms = 0 if timetable.rule.by_wall_clock else self._clock.read().ahead_ms
        arrivals = [_arrival(timetable.flow, moment, ahead_ms) for moment in moments]
        answers = await self._intake.receive_all(arrivals)
        for moment, answer in zip(moments, answers, strict=True):
            if isinstance(answer, Refused) and not answer.final:
                self._delay(timetable, answer)
                return
            # KeyReused is a moment that was fired before: its payload differs if the clock was set.
            if isinstance(answer, Refused) and not isinstance(answer, KeyReused):
                self._telemetry.problem(
                    "schedule_refused", schedule=timetable.name, reason=str(answer)
                )
            timetable.done(moment)
        self._delayed.discard(timetable.name)

    def _delay(self, timetable: Timetable, refusal: Refused) -> None:
        if timetable.name not in self._delayed and not isinstance(refusal, Draining):
            self._telemetry.problem(
                "schedule_delayed", schedule=timetable.name, reason=str(refusal)
            )
        self._delayed.add(timetable.name)

    def _read(self) -> Mapping[str, Sequence[int]]:
        try:
            return self._file.read()
        except (OSError, Malformed, msgspec.ValidationError) as error:
            path = str(self._file.path)
            self._telemetry.problem("schedules_forgotten", path=path, reason=str(error))
            return {}


def _arrival(flow: str, moment_ms: int, ahead_ms: int) -> Arrival:
    """``ahead_ms``: how far the clock of the moment is ahead of the wall clock.

    The payload has wall time.
    """
    body = msgspec.json.encode({"at": rfc3339(moment_ms - ahead_ms)})
    return Arrival(TriggerSource.SCHEDULE, body, key=str(moment_ms), flow_id=flow)


def rfc3339(moment_ms: int) -> str:
    """A moment in UTC, with milliseconds if there are any."""
    seconds, ms = divmod(moment_ms, 1000)
    text = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{ms:03}Z" if ms else f"{text}Z"
