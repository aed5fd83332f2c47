"""The clocks of a node. The steady clock does not change when the wall clock is set.

    wall clock: shown to people, and used by CRON

    clock since boot
      │ + ahead_ms
      ▼
    steady clock: deadlines, budgets, STALE, EVERY, the age of a run at a start of the node
      ├── - retention_behind_ms ──> retention clock: the age of trigger ids and history
      └── + id_ahead_ms ──────────> id clock: the time in the ids of runs

**Steady clock.** When the state folder is made, it starts at the time of the wall clock. Then it
runs like the clock since boot (CLOCK_BOOTTIME), also while the machine is suspended. Only the wall
clock shows how long a reboot took, so the wall clock is read once, at the first start after a
reboot. If it then shows an earlier time than before the reboot, the steady clock continues from its
last saved time (saved at most WRITE_EVERY_MS before the reboot), plus the uptime of the machine. If
no time was saved, the steady clock continues from the latest moment in the journal.

**Retention clock.** A wall clock that is wrong at a boot must not make a node forget trigger ids
and history. So the retention clock counts at most MAX_REBOOT_AGING_MS for a reboot. If the wall
clock is set back later, the retention clock is set back as well, at most by the counted time.
This happens after each boot if the hardware clock shows local time.

**Id clock.** It continues from the latest time that the wall clock has shown. So the ids of both
processes of a node, and of different nodes, are in the order in which the runs were accepted.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from fractal_rm.domain.moment import Moment

# How often the timeline is saved. A power loss may set the steady clock back by this time.
WRITE_EVERY_MS = 60_000
# A wall clock that is wrong at a start may show that the machine was off for fifty years. Forgotten
# trigger ids and history cannot be restored, so they age by at most this much for a reboot. This is
# less than the default of state.dedup_window_s, so a trigger that is repeated right after such a
# start is recognized.
MAX_REBOOT_AGING_MS = 72_000_000
# If a saved timeline is behind the latest moment in the journal by more than this, it belongs to
# another journal. After a power loss, a timeline is behind its own journal by at most
# WRITE_EVERY_MS.
FOREIGN_FROM_MS = 3_600_000
# A smaller difference does not show that the wall clock was set: the wall clock and the clock since
# boot are read one after the other, in whole milliseconds.
MIN_CHANGE_MS = 10
# Smaller corrections of the wall clock are frequent, so they are not logged.
LOGGED_FROM_MS = 2_000
# A wall clock that is at least this far behind the retention clock is reported.
REPORTED_FROM_MS = 60_000


# About four thousand years. A file that contains a larger time is damaged.
MAX_MS = 1 << 47
_Ms = Annotated[int, msgspec.Meta(ge=-MAX_MS, le=MAX_MS)]


class ClockReading(msgspec.Struct, frozen=True, gc=False):
    """The same moment on each clock, in milliseconds since 1970, UTC.

    ``wall_ms`` is the wall clock, ``steady_ms`` the steady clock, ``retention_ms`` the retention
    clock, and ``id_ms`` the id clock.
    """

    wall_ms: int
    steady_ms: int
    retention_ms: int
    id_ms: int

    @property
    def ahead_ms(self) -> int:
        """How far the steady clock is ahead of the wall clock. 0: the wall clock was never set."""
        return self.steady_ms - self.wall_ms


class ClockChange(msgspec.Struct, frozen=True):
    """What happened to the clocks since they were last checked.

    ``set_by_ms``: how far the wall clock was set ahead; negative: back. ``slept_ms``: how long the
    machine was suspended.
    """

    set_by_ms: int = 0
    slept_ms: int = 0


class Timeline(msgspec.Struct, frozen=True):
    """The offsets of a node's clocks from the clocks of the machine; saved in the state folder.

    When the offsets were computed, ``boot`` was the id of the boot, ``boot_ms`` the clock since
    boot, and ``wall_ms`` the wall clock. ``ahead_ms``: how far the steady clock is ahead of the
    clock since boot. ``retention_behind_ms``: how far the retention clock is behind the steady
    clock. ``id_ahead_ms``: how far the id clock is ahead of the steady clock.
    ``counted_reboot_ms``: how much time the retention clock has counted for reboots. It can be set
    back by at most this time.
    """

    boot: str
    boot_ms: _Ms
    wall_ms: _Ms
    ahead_ms: _Ms
    retention_behind_ms: _Ms = msgspec.field(name="off_ms", default=0)
    id_ahead_ms: _Ms = msgspec.field(name="lead_ms", default=0)
    counted_reboot_ms: _Ms = msgspec.field(name="believed_ms", default=0)

    @property
    def steady_ms(self) -> int:
        """The time on the steady clock at ``boot_ms``."""
        return self.boot_ms + self.ahead_ms

    def read(self, boot_ms: int) -> ClockReading:
        """The time on all clocks when the clock since boot shows ``boot_ms``."""
        steady_ms = boot_ms + self.ahead_ms
        wall_ms = boot_ms - self.boot_ms + self.wall_ms
        return ClockReading(
            wall_ms, steady_ms, steady_ms - self.retention_behind_ms, steady_ms + self.id_ahead_ms
        )


def timeline_at_start(saved: Timeline | None, now: Moment) -> Timeline:
    """The timeline at the start of a process. ``saved`` is None if no timeline was saved."""
    if saved is None:
        return new_timeline_after(now.wall_ms, now)
    if saved.boot == now.boot and now.boot_ms >= saved.boot_ms:
        return updated_timeline(saved, now)
    return updated_timeline(_after_reboot(saved, now), now)


def new_timeline_after(latest_ms: int, now: Moment) -> Timeline:
    """A new timeline for a journal whose latest moment is ``latest_ms``.

    As after a reboot, only the wall clock shows how much time has passed since that moment.
    """
    at_latest = Timeline(now.boot, now.boot_ms, now.wall_ms, latest_ms - now.boot_ms)
    return _add_time_off(at_latest, max(0, now.wall_ms - latest_ms))


def is_of_other_journal(timeline: Timeline, latest_ms: int) -> bool:
    """Whether a timeline is not that of the journal whose latest moment is ``latest_ms``."""
    return timeline.steady_ms < latest_ms - FOREIGN_FROM_MS


def updated_timeline(timeline: Timeline, now: Moment) -> Timeline:
    """Continue a timeline of the same boot up to ``now``.

    If the wall clock was set ahead, the id clock is set ahead, too. If the wall clock was set back,
    the retention clock is set back as well, but at most by ``counted_reboot_ms``.
    """
    expected_ms = wall_ms = timeline.wall_ms + now.boot_ms - timeline.boot_ms
    if abs(now.wall_ms - wall_ms) >= MIN_CHANGE_MS:
        wall_ms = now.wall_ms
    set_back_ms = min(timeline.counted_reboot_ms, max(0, expected_ms - wall_ms))
    return msgspec.structs.replace(
        timeline,
        boot_ms=now.boot_ms,
        wall_ms=wall_ms,
        retention_behind_ms=timeline.retention_behind_ms + set_back_ms,
        id_ahead_ms=max(timeline.id_ahead_ms, wall_ms - (now.boot_ms + timeline.ahead_ms)),
        counted_reboot_ms=timeline.counted_reboot_ms - set_back_ms,
    )


def wall_clock_set_by(earlier: Timeline, later: Timeline) -> int:
    """Milliseconds by which the wall clock was set ahead between two timelines; negative: back."""
    return later.wall_ms - earlier.wall_ms - (later.boot_ms - earlier.boot_ms)


def wall_clock_fault(reading: ClockReading, released_ms: int) -> str | None:
    """The reason why the wall clock must be wrong, or None if there is no such reason.

    ``released_ms`` is the date of this release.
    """
    if reading.wall_ms < released_ms:
        return "the wall clock shows a time before the release of this program"
    behind_ms = reading.retention_ms - reading.wall_ms
    if behind_ms >= REPORTED_FROM_MS:
        return (
            f"the wall clock is {behind_ms // 1000} s behind the time that this node has measured"
        )
    return None


def _after_reboot(timeline: Timeline, now: Moment) -> Timeline:
    """The timeline after a reboot, or on another machine.

    The wall clock shows how much time has passed. If it shows an earlier time than the timeline,
    the uptime is used instead.
    """
    passed_ms = now.wall_ms - timeline.wall_ms
    if passed_ms < 0:
        passed_ms = now.boot_ms
    rebooted = msgspec.structs.replace(
        timeline,
        boot=now.boot,
        boot_ms=now.boot_ms,
        wall_ms=timeline.wall_ms + passed_ms,
        ahead_ms=timeline.steady_ms - now.boot_ms,
    )
    return _add_time_off(rebooted, passed_ms)


def _add_time_off(timeline: Timeline, passed_ms: int) -> Timeline:
    """Add the time of a reboot. The retention clock counts at most MAX_REBOOT_AGING_MS of it."""
    counted_ms = min(passed_ms, MAX_REBOOT_AGING_MS)
    return msgspec.structs.replace(
        timeline,
        ahead_ms=timeline.ahead_ms + passed_ms,
        retention_behind_ms=timeline.retention_behind_ms + passed_ms - counted_ms,
        counted_reboot_ms=min(timeline.counted_reboot_ms + counted_ms, MAX_REBOOT_AGING_MS),
    )
