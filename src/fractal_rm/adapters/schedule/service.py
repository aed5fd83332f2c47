"""Fires what is due: every moment is one trigger, admitted as any other, and remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import UNSET

from fractal_rm.adapters.schedule.timetable import Timetable, rules_of
from fractal_rm.config.regular_file import read_regular
from fractal_rm.config.whole_file import replace_file
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.flow_errors import BadSchedule
from fractal_rm.domain.refusals import Draining, KeyReused, Malformed, Refused
from fractal_rm.domain.steady import MOST_MS
from fractal_rm.domain.strict_json import read_json_as
from fractal_rm.domain.trigger import Arrival, Source
from fractal_rm.engine.ports import Check, Clock, Intake, Telemetry, WayIn

FILE = "schedules.json"
LOOK_AT_LEAST_S = 1.0  # the wall clock may jump, and nobody tells
REMEMBER_EVERY_S = 1.0
SUSPENDED_MS = 1_000  # for less, no moment was missed


# Milliseconds since 1970, on any clock of a node; what is near the year 10000 is no date in some
# time zones.
Moment = Annotated[int, msgspec.Meta(ge=0, le=MOST_MS)]
Remembered = dict[str, Moment | list[Moment]]  # a list where a clock went back: see `Timetable`


class Schedules:
    """Port `WayIn`. What it has fired is kept in the state folder, a second late at most.

    After a crash a moment may so be fired again. It names its run, so that it is one run.
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
        self._path = state_path / FILE
        self._clock = clock
        self._telemetry = telemetry
        self._flows = flows
        self._timetables: dict[str, Timetable] = {}
        self._running: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._asleep_ms = clock.steady_ms() - clock.monotonic_s() * 1000
        self._kept: Remembered = {}
        self._kept_at_s = float("-inf")
        self._held_back: set[str] = set()  # the timetables that were told to come again

    async def start(self, before: WayIn | None = None) -> None:  # noqa: ARG002 - it is stopped
        """Go on where the last process came to."""
        self._kept = await asyncio.to_thread(self._read)
        self._take_up(self._kept)
        self._running = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Fire no more, and remember."""
        running, self._running = self._running, None
        if running is None:
            return
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await self._remember(at_once=True)

    def status(self) -> Check:
        """It always can; a node without schedules has none."""
        count = len(self._timetables)
        return Check("schedules", ok=self._running is not None, text=f"{count} of them")

    def reconfigured(self) -> None:
        """Take up what flows say now; a rule that stays goes on as it was."""
        self._take_up({})
        self._changed.set()

    async def look(self) -> None:
        """Fire what is due now."""
        if self._has_slept():
            for timetable in self._timetables.values():
                timetable.wake()
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

    def _has_slept(self) -> bool:
        """Whether the machine was suspended since the last look."""
        before_ms = self._asleep_ms
        self._asleep_ms = self._clock.steady_ms() - self._clock.monotonic_s() * 1000
        return self._asleep_ms - before_ms >= SUSPENDED_MS

    def _take_up(self, remembered: Remembered) -> None:
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
            for rule in rules:
                name = f"{flow.id} {rule.spec}"
                known = self._timetables.get(name)
                if known is None:
                    known = Timetable(
                        flow.id,
                        rule,
                        flow.starts.catch_up,
                        _times(remembered.get(name, [])),
                        now_ms,
                        steady_ms,
                    )
                known.catch_up = flow.starts.catch_up
                timetables[name] = known
        self._timetables = timetables  # all: where no descriptor is free, those before stay

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
                await self._remember()
            except Exception as error:  # noqa: BLE001 - the top of the task
                # Without this task nothing begins by the clock any more.
                self._telemetry.problem("schedule_broke", error=repr(error), exc_info=error)
                await asyncio.sleep(LOOK_AT_LEAST_S)
            await self._next_look()

    async def _next_look(self) -> None:
        now_ms, steady_ms = self._clock.now_ms(), self._clock.steady_ms()
        dues = [
            each.due_in_s(now_ms, steady_ms)
            for name, each in self._timetables.items()
            if name not in self._held_back
        ]
        pause_s = min([LOOK_AT_LEAST_S, *(max(0.0, due) for due in dues)])
        # Without schedules there is nothing to look for until the configuration changes.
        try:
            await asyncio.wait_for(self._changed.wait(), pause_s if self._timetables else None)
        except asyncio.TimeoutError:
            return
        self._changed.clear()

    async def _fire(self, timetable: Timetable, moments: tuple[int, ...]) -> None:
        """In order, up to the first that is refused for now: that one and the rest come again."""
        ahead_ms = 0 if timetable.rule.by_wall else self._clock.read().ahead_ms
        arrivals = [_arrival(timetable.flow, moment, ahead_ms) for moment in moments]
        answers = await self._intake.receive_all(arrivals)
        for moment, answer in zip(moments, answers, strict=True):
            if isinstance(answer, Refused) and not answer.final:
                self._hold_back(timetable, answer)
                return
            # A moment that is known is that run: `at` differs where the clock was set since.
            if isinstance(answer, Refused) and not isinstance(answer, KeyReused):
                self._telemetry.problem(
                    "schedule_refused", schedule=timetable.name, reason=str(answer)
                )
            timetable.done(moment)
        self._held_back.discard(timetable.name)

    def _hold_back(self, timetable: Timetable, refusal: Refused) -> None:
        if timetable.name not in self._held_back and not isinstance(refusal, Draining):
            self._telemetry.problem(
                "schedule_held_back", schedule=timetable.name, reason=str(refusal)
            )
        self._held_back.add(timetable.name)

    # --- what it has fired --------------------------------------------------------------------

    def _read(self) -> Remembered:
        try:
            return read_json_as(read_regular(self._path), Remembered)
        except FileNotFoundError:
            return {}
        except (OSError, Malformed, msgspec.ValidationError) as error:
            self._telemetry.problem("schedules_forgotten", path=str(self._path), reason=str(error))
            return {}

    async def _remember(self, *, at_once: bool = False) -> None:
        now_s = self._clock.monotonic_s()
        lasts: Remembered = {}
        for name, each in self._timetables.items():
            times = each.remembered
            lasts[name] = times if len(times) > 1 else times[0]
        if lasts == self._kept or (now_s - self._kept_at_s < REMEMBER_EVERY_S and not at_once):
            return
        self._kept_at_s = now_s
        try:
            await asyncio.to_thread(replace_file, self._path, msgspec.json.encode(lasts))
        except OSError as error:
            self._telemetry.problem("schedules_not_kept", path=str(self._path), reason=str(error))
            return
        self._kept = lasts


def _times(remembered: int | list[int]) -> list[int]:
    return [remembered] if isinstance(remembered, int) else remembered


def _arrival(flow: str, moment_ms: int, ahead_ms: int) -> Arrival:
    """``ahead_ms``: so far the clock of the moment is ahead of the wall clock, which `at` is of."""
    body = msgspec.json.encode({"at": rfc3339(moment_ms - ahead_ms)})
    return Arrival(Source.SCHEDULE, body, key=str(moment_ms), flow_id=flow)


def rfc3339(moment_ms: int) -> str:
    """A moment in UTC, with milliseconds where it has some."""
    seconds, ms = divmod(moment_ms, 1000)
    text = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{ms:03}Z" if ms else f"{text}Z"
