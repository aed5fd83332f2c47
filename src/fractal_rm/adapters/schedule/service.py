"""Fires the moments of schedules when they are due. Each moment is one trigger for the engine."""

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

LONGEST_PAUSE_S = 1.0  # the wall clock can jump without notice
SAVE_EVERY_S = 1.0
SUSPENDED_MS = 1_000  # shorter suspends do not count


class Schedules:
    """Port `WayIn`. The progress is saved in the state folder about once a second.

    After a crash, a moment can be fired again. The moment is the id of its trigger, so the engine
    does not start a second run.
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
        self._delayed: set[str] = set()  # timetables whose last trigger was temporarily refused
        self._running: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._suspended_ms = self._suspended_total_ms()

    async def start(self, predecessor: WayIn | None = None) -> None:  # noqa: ARG002 - was stopped
        """Continue where the last process stopped."""
        await self.load()
        self._running = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop firing, and save the progress."""
        running, self._running = self._running, None
        if running is None:
            return
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await self.save()

    def status(self) -> ReadinessCheck:
        """Whether this service is running, and how many schedules there are."""
        count = len(self._timetables)
        return ReadinessCheck(
            "schedules", ok=self._running is not None, text=f"number of schedules: {count}"
        )

    def reconfigured(self) -> None:
        """Apply the rules of the new configuration. Unchanged rules keep their progress."""
        self._set_timetables({})
        self._changed.set()

    async def load(self) -> None:
        """Read the progress of the last process."""
        self._set_timetables(await asyncio.to_thread(self._read))

    async def save(self) -> None:
        """Write the progress, if it has changed."""
        progress = {name: each.progress for name, each in self._timetables.items()}
        if self._file.has(progress):
            return
        self._saved_s = self._clock.monotonic_s()
        try:
            await asyncio.to_thread(self._file.save, progress)
        except OSError as error:
            path = str(self._file.path)
            self._telemetry.problem("schedules_not_saved", path=path, reason=str(error))

    async def fire_due(self) -> None:
        """Fire the moments that are due now."""
        if self._was_suspended():
            for timetable in self._timetables.values():
                timetable.note_suspended()
        for timetable in list(self._timetables.values()):
            due = timetable.find_due(self._clock.now_ms(), self._clock.steady_ms())
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
        """Whether the machine was suspended since the last call."""
        before_ms, self._suspended_ms = self._suspended_ms, self._suspended_total_ms()
        return self._suspended_ms - before_ms >= SUSPENDED_MS

    def _suspended_total_ms(self) -> float:
        """How long the machine was suspended in total, plus a constant."""
        return self._clock.steady_ms() - self._clock.monotonic_s() * 1000

    def _set_timetables(self, old_progress: Mapping[str, Sequence[int]]) -> None:
        """Make the timetables of the flows in force. Existing timetables are reused.

        ``old_progress`` is the progress of an earlier process; new timetables continue from it.
        Raises OSError, and changes nothing, if no file descriptor is free to read a time zone.
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
                    progress = old_progress.get(name, ())
                    timetable = Timetable(flow.id, rule, catch_up, progress, now_ms, steady_ms)
                timetable.catch_up = catch_up
                timetables[name] = timetable
        self._timetables = timetables

    async def _watch(self) -> None:
        while True:
            try:
                await self.fire_due()
                if self._clock.monotonic_s() - self._saved_s >= SAVE_EVERY_S:
                    await self.save()
            except Exception as error:  # noqa: BLE001 - the top of the task
                # The task continues: if it ended, no schedule would fire any more.
                self._telemetry.problem("schedules_failed", error=repr(error), exc_info=error)
                await asyncio.sleep(LONGEST_PAUSE_S)
            await self._wait_until_due()

    async def _wait_until_due(self) -> None:
        now_ms, steady_ms = self._clock.now_ms(), self._clock.steady_ms()
        dues = [
            each.due_in_s(now_ms, steady_ms)
            for name, each in self._timetables.items()
            if name not in self._delayed
        ]
        pause_s = min([LONGEST_PAUSE_S, *(max(0.0, due) for due in dues)])
        # Without schedules, wait until the configuration changes.
        timeout_s = pause_s if self._timetables else None
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except asyncio.TimeoutError:
            return
        self._changed.clear()

    async def _fire(self, timetable: Timetable, moments: tuple[int, ...]) -> None:
        """Fire moments in order. Stop at a temporary refusal, and retry from there later."""
        ahead_ms = 0 if timetable.rule.by_wall_clock else self._clock.read().ahead_ms
        arrivals = [_trigger(timetable.flow, moment, ahead_ms) for moment in moments]
        answers = await self._intake.receive_all(arrivals)
        for moment, answer in zip(moments, answers, strict=True):
            if isinstance(answer, Refused) and not answer.final:
                self._delay(timetable, answer)
                return
            # KeyReused is no problem: the moment was fired before. Since then the clock was set, so
            # the payload differs.
            if isinstance(answer, Refused) and not isinstance(answer, KeyReused):
                self._telemetry.problem(
                    "schedule_refused", schedule=timetable.name, reason=str(answer)
                )
            timetable.note_done(moment)
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
            self._telemetry.problem("schedules_unreadable", path=path, reason=str(error))
            return {}


def _trigger(flow: str, moment_ms: int, ahead_ms: int) -> Arrival:
    """The trigger of a moment. Its payload has the moment as wall time.

    ``ahead_ms``: how far the clock of the moment is ahead of the wall clock.
    """
    body = msgspec.json.encode({"at": rfc3339(moment_ms - ahead_ms)})
    return Arrival(TriggerSource.SCHEDULE, body, key=str(moment_ms), flow_id=flow)


def rfc3339(moment_ms: int) -> str:
    """Format a moment in UTC, with milliseconds only if they are not zero."""
    seconds, ms = divmod(moment_ms, 1000)
    text = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{ms:03}Z" if ms else f"{text}Z"
