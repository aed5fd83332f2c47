"""Reads the clocks of the machine, and saves the steady clock in a file."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

import msgspec

from fractal_rm.config.durable_files import replace_file
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.steady import (
    MIN_CHANGE_MS,
    WRITE_EVERY_MS,
    ClockChange,
    ClockReading,
    Timeline,
    is_of_other_journal,
    new_timeline_after,
    timeline_at_start,
    updated_timeline,
    wall_clock_set_by,
)
from fractal_rm.domain.strict_json import read_json_as
from fractal_rm.engine.ports import Telemetry

FILE = "clock.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SystemClock:
    """The clocks of the machine: port `Clock`. No other code of this program reads a clock.

    ``saved`` is the `Timeline` that an earlier process saved; None: begin a new timeline.
    """

    def __init__(self, saved: Timeline | None = None) -> None:
        self._boot = _boot_id()
        self._timeline = timeline_at_start(saved, self._machine_clocks())
        self._awake_s = self.monotonic_s()

    @staticmethod
    def now_ms() -> int:
        """The wall clock, in milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000  # noqa: TID251 - this is the clock

    # Seconds since an arbitrary moment, on the clock of the event loop. This clock never jumps. It
    # stops while the machine is suspended.
    monotonic_s = staticmethod(time.monotonic)  # noqa: TID251 - this is the clock

    def moment(self) -> Moment:
        """The current moment, in a form that can be compared after a reboot; see the port."""
        since_ms = _since_boot_ms()
        reading = self._timeline.read(since_ms)
        return Moment(self._boot, since_ms, reading.wall_ms, reading.ahead_ms)

    def read(self) -> ClockReading:
        """Read every clock.

        If the wall clock was set, the result shows the change only after `detect_changes`.
        """
        return self._timeline.read(_since_boot_ms())

    def steady_ms(self) -> int:
        """The steady clock, in milliseconds."""
        return _since_boot_ms() + self._timeline.ahead_ms

    def detect_changes(self) -> ClockChange:
        """Detect whether, since the last call, the wall clock was set or the machine was suspended.

        Returns by how much and for how long, in milliseconds; 0: this did not happen.
        """
        previous, awake_s = self._timeline, self.monotonic_s()
        self._timeline = updated_timeline(previous, self._machine_clocks())
        passed_ms = self._timeline.boot_ms - previous.boot_ms
        slept_ms = passed_ms - round((awake_s - self._awake_s) * 1000)
        self._awake_s = awake_s
        set_by_ms = wall_clock_set_by(previous, self._timeline)
        return ClockChange(set_by_ms, slept_ms if slept_ms >= MIN_CHANGE_MS else 0)

    def _machine_clocks(self) -> Moment:
        """Read the clock since boot and the wall clock of the machine."""
        return Moment(self._boot, _since_boot_ms(), self.now_ms())

    def continue_after(self, latest_ms: int | None) -> None:
        """Do nothing: this clock has no file."""

    async def save(self) -> None:
        """Do nothing: this clock has no file."""


class NodeClock(SystemClock):
    """The clocks of a node. The steady clock is saved in a file of the state folder.

    All processes of a node share the file. A new process continues the steady clock from the file.
    The file is written once a minute, and after each change of the wall clock.
    """

    def __init__(self, state: Path, telemetry: Telemetry) -> None:
        self._path = state / FILE
        self._telemetry = telemetry
        self._saved_timeline: Timeline | None = None
        self._failed = False
        saved = self._read()
        self._was_saved = saved is not None
        super().__init__(saved)

    def retention_ms(self) -> int:
        """The retention clock in milliseconds. It measures the age of trigger ids and history."""
        return self.read().retention_ms

    def continue_after(self, latest_ms: int | None) -> None:
        """Continue the steady clock from the journal if the clock file cannot be used.

        The file is not used if it is missing or damaged, or if its time does not fit the journal.
        ``latest_ms`` is the latest time in the journal; None: the journal has no time yet.
        """
        if latest_ms is None:
            return
        if self._was_saved:
            if not is_of_other_journal(self._timeline, latest_ms):
                return
            self._report_ignored(
                "its time is earlier than the latest time in the journal: the file was not saved,"
                " or it was copied from another state folder"
            )
        self._timeline = new_timeline_after(latest_ms, self._machine_clocks())

    async def save(self) -> None:
        """Save the timeline if it is due; see the port."""
        timeline = self._timeline
        if not self._is_due(timeline):
            return
        try:
            await asyncio.to_thread(replace_file, self._path, msgspec.json.encode(timeline))
        except OSError as error:
            if not self._failed:  # logged once, as this method is called twice a second
                reason = str(error)
                self._telemetry.problem("clock_not_saved", path=str(self._path), reason=reason)
            self._failed = True
        else:
            self._saved_timeline, self._failed = timeline, False

    def _read(self) -> Timeline | None:
        try:
            return read_json_as(read_regular(self._path), Timeline)
        except FileNotFoundError:
            return None
        except (OSError, Malformed, msgspec.ValidationError) as error:
            self._report_ignored(str(error))
            return None

    def _report_ignored(self, reason: str) -> None:
        self._telemetry.problem("clock_file_ignored", path=str(self._path), reason=reason)

    def _is_due(self, timeline: Timeline) -> bool:
        saved = self._saved_timeline
        if saved is None:
            return True
        since_ms = timeline.boot_ms - saved.boot_ms
        return since_ms >= WRITE_EVERY_MS or wall_clock_set_by(saved, timeline) != 0


def _since_boot_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _boot_id() -> str:
    """The kernel's id of this boot. If it cannot be read, a random id."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return str(uuid.uuid4())
