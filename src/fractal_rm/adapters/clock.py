"""The clocks of the machine, and the file by which the steady one outlives a process."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

import msgspec

from fractal_rm.config.regular_file import read_regular
from fractal_rm.config.whole_file import replace_file
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.steady import (
    STEP_MS,
    WRITE_EVERY_MS,
    Look,
    Reading,
    Timeline,
    begun_after,
    is_foreign,
    looked_at,
    resumed,
    set_between,
)
from fractal_rm.domain.strict_json import read_json_as
from fractal_rm.engine.ports import Telemetry

FILE = "clock.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SystemClock:
    """Port `Clock`: the only place that reads a clock. ``known``: how the steady one stood last."""

    def __init__(self, known: Timeline | None = None) -> None:
        self._boot = _boot_id()
        self._timeline = resumed(known, self._machine())
        self._awake_s = self.monotonic_s()

    @staticmethod
    def now_ms() -> int:
        """Wall clock: milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000  # noqa: TID251 - this is the clock

    # Seconds since some moment; never jumps, and stands still in suspend, as the event loop's.
    monotonic_s = staticmethod(time.monotonic)  # noqa: TID251 - this is the clock

    def moment(self) -> Moment:
        """Now, as it can be compared after a reboot; see the port."""
        since_ms = _since_boot_ms()
        now = self._timeline.read(since_ms)
        return Moment(self._boot, since_ms, now.wall_ms, now.ahead_ms)

    def read(self) -> Reading:
        """Every clock, by one look at that since boot: the wall clock as of the last `look`."""
        return self._timeline.read(_since_boot_ms())

    def steady_ms(self) -> int:
        """The steady clock alone."""
        return _since_boot_ms() + self._timeline.ahead_ms

    def look(self) -> Look:
        """See whether the wall clock was set, or the machine suspended, since the last look."""
        before, awake_s = self._timeline, self.monotonic_s()
        self._timeline = looked_at(before, self._machine())
        passed_ms = self._timeline.boot_ms - before.boot_ms
        slept_ms = passed_ms - round((awake_s - self._awake_s) * 1000)
        self._awake_s = awake_s
        return Look(set_between(before, self._timeline), slept_ms if slept_ms >= STEP_MS else 0)

    def _machine(self) -> Moment:
        """What the machine's own clocks say: that since boot, and that on the wall."""
        return Moment(self._boot, _since_boot_ms(), self.now_ms())

    def go_on_after(self, latest_ms: int | None) -> None:
        """Without a file, this process is all that there is."""

    async def keep(self) -> None:
        """Without a file, this process is all that there is."""


class NodeClock(SystemClock):
    """The clock of a node: the steady one goes on where the last process of ``state`` left it.

    All processes of a node share the file. It is written once a minute, and when the wall clock was
    set; after a reboot that minute is all that the file does not know.
    """

    def __init__(self, state: Path, telemetry: Telemetry) -> None:
        self._path = state / FILE
        self._telemetry = telemetry
        self._written: Timeline | None = None
        self._failed = False
        known = self._read()
        self._is_known = known is not None
        super().__init__(known)

    def retention_ms(self) -> int:
        """The retention clock: by it trigger ids and history age."""
        return self.read().retention_ms

    def go_on_after(self, latest_ms: int | None) -> None:
        """Begin anew from the journal, where the file was lost or is another journal's."""
        if latest_ms is None:
            return
        if self._is_known:
            if not is_foreign(self._timeline, latest_ms):
                return
            self._forgotten("it is behind the journal: it was not kept, or is of another folder")
        self._timeline = begun_after(latest_ms, self._machine())

    async def keep(self) -> None:
        """Write down how the clocks stand, where there is news; see the port."""
        timeline = self._timeline
        if not self._is_news(timeline):
            return
        try:
            await asyncio.to_thread(replace_file, self._path, msgspec.json.encode(timeline))
        except OSError as error:
            if not self._failed:  # one line, and not two a second
                why = str(error)
                self._telemetry.problem("clock_not_kept", path=str(self._path), reason=why)
            self._failed = True
        else:
            self._written, self._failed = timeline, False

    def _read(self) -> Timeline | None:
        try:
            return read_json_as(read_regular(self._path), Timeline)
        except FileNotFoundError:
            return None
        except (OSError, Malformed, msgspec.ValidationError) as error:
            self._forgotten(str(error))
            return None

    def _forgotten(self, why: str) -> None:
        self._telemetry.problem("clock_forgotten", path=str(self._path), reason=why)

    def _is_news(self, timeline: Timeline) -> bool:
        written = self._written
        if written is None:
            return True
        since_ms = timeline.boot_ms - written.boot_ms
        return since_ms >= WRITE_EVERY_MS or set_between(written, timeline) != 0


def _since_boot_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _boot_id() -> str:
    """The kernel's name for this boot. Where it gives none, this process counts as one."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return str(uuid.uuid4())
