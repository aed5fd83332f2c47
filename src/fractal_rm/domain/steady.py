"""The steady clock of a node: nobody sets it, and it goes on in suspend.

    wall clock: what people are shown, and CRON

    clock since boot ──+ ahead_ms──> steady clock: deadlines, budgets, STALE, EVERY, age at a start
                                       │
                                       ├──- off_ms──> retention clock: trigger ids and history
                                       └──+ lead_ms─> id clock: the time in the ids of runs

The retention clock leaves out most of what a reboot is said to have taken: a wall clock that is
wrong at a boot must not make a node forget what it did. Where the wall clock is set back after it,
it leaves out that, too: a clock of the board that goes ahead, or shows local time, is put right so
after each boot. The id clock goes on from the latest time that the wall clock has shown, so that
both processes of a node, and nodes among each other, number their runs in the order in which they
came.

The steady clock begins as the wall clock stands when a state folder is made, and from there on goes
as the clock since boot does (CLOCK_BOOTTIME). What a reboot takes only the wall clock knows: it is
asked once, at the first start after it. Where it is behind, the steady clock goes on from where it
was written down, at most WRITE_EVERY_MS before the reboot, by as much as the machine is up. Where
nothing was written down, it goes on from the latest moment in the journal.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from fractal_rm.domain.moment import Moment

# So often it is written down how the clocks stand: by so much the last time before a power loss may
# be missing.
WRITE_EVERY_MS = 60_000
# A wall clock that is wrong at a start may say that the machine was off for fifty years. Trigger
# ids and history, which cannot be had back, age by at most so much of it.
# That is less than the window in which a trigger id is known, unless it is configured otherwise: a
# trigger that comes again right after such a start is known.
MOST_OFF_MS = 72_000_000
# So far behind the latest moment in the journal, a timeline is not that of the journal: it is more
# than a power loss may take (WRITE_EVERY_MS).
FOREIGN_MS = 3_600_000
# What reading one clock after the other, each in whole milliseconds, makes of it.
STEP_MS = 10
# The wall clock is corrected in small steps all the time. Less than that is not worth a line.
WORTH_A_LINE_MS = 2_000
DOUBT_MS = 60_000  # so far behind the retention clock, the wall clock is said to be behind


# No machine shows a time four thousand years from here; a file that does is broken.
MOST_MS = 1 << 47
_Ms = Annotated[int, msgspec.Meta(ge=-MOST_MS, le=MOST_MS)]


class Reading(msgspec.Struct, frozen=True, gc=False):
    """The same moment on each clock, in milliseconds since 1970, UTC.

    ``wall_ms`` is for people. ``steady_ms`` measures how long something takes, ``retention_ms`` how
    old trigger ids and history are, and ``id_ms`` does not go back where the wall clock does.
    """

    wall_ms: int
    steady_ms: int
    retention_ms: int
    id_ms: int

    @property
    def ahead_ms(self) -> int:
        """How far the steady clock is ahead of the wall clock; 0 until that one is set."""
        return self.steady_ms - self.wall_ms


class Look(msgspec.Struct, frozen=True):
    """What has happened to the clocks since the last look.

    ``set_by_ms``: so far the wall clock was set. ``slept_ms``: so long the machine was suspended.
    """

    set_by_ms: int = 0
    slept_ms: int = 0


class Timeline(msgspec.Struct, frozen=True):
    """How a node's clocks stand to those of the machine. It is a file in the state folder.

    ``boot``, ``boot_ms``, ``wall_ms``: when that was. ``ahead_ms``: how far the steady clock is
    ahead of that since boot. ``off_ms``: how much of it the retention clock leaves out.
    ``lead_ms``: how far the id clock is ahead of it. ``believed_ms``: how much of reboots the
    retention clock did not leave out; it will, as far as the wall clock is set back.
    """

    boot: str
    boot_ms: _Ms
    wall_ms: _Ms
    ahead_ms: _Ms
    off_ms: _Ms = 0
    lead_ms: _Ms = 0
    believed_ms: _Ms = 0

    @property
    def steady_ms(self) -> int:
        """The steady clock at the moment of ``boot_ms``."""
        return self.boot_ms + self.ahead_ms

    def read(self, boot_ms: int) -> Reading:
        """Every clock at a moment of this boot, if the wall clock was not set since ``boot_ms``."""
        steady_ms = boot_ms + self.ahead_ms
        wall_ms = boot_ms - self.boot_ms + self.wall_ms
        return Reading(wall_ms, steady_ms, steady_ms - self.off_ms, steady_ms + self.lead_ms)


def resumed(known: Timeline | None, now: Moment) -> Timeline:
    """The timeline at the start of a process; ``known`` is what was written down, if anything."""
    if known is None:
        return begun_after(now.wall_ms, now)
    if known.boot == now.boot and now.boot_ms >= known.boot_ms:
        return looked_at(known, now)
    return looked_at(_after_reboot(known, now), now)


def begun_after(latest_ms: int, now: Moment) -> Timeline:
    """A timeline where none is known, for a journal with ``latest_ms`` as its latest moment.

    What has passed since then only the wall clock knows, as after a reboot.
    """
    at_latest = Timeline(now.boot, now.boot_ms, now.wall_ms, latest_ms - now.boot_ms)
    return _after_off(at_latest, max(0, now.wall_ms - latest_ms))


def is_foreign(timeline: Timeline, latest_ms: int) -> bool:
    """Whether it cannot be that of a journal with ``latest_ms`` as its latest moment."""
    return timeline.steady_ms < latest_ms - FOREIGN_MS


def looked_at(known: Timeline, now: Moment) -> Timeline:
    """The timeline as of now, of the same boot.

    The id clock follows a wall clock that is set ahead, and what was believed of one that is set
    back is taken back.
    """
    expected_ms = wall_ms = known.wall_ms + now.boot_ms - known.boot_ms
    if abs(now.wall_ms - wall_ms) >= STEP_MS:
        wall_ms = now.wall_ms
    wrong_ms = min(known.believed_ms, max(0, expected_ms - wall_ms))
    return msgspec.structs.replace(
        known,
        boot_ms=now.boot_ms,
        wall_ms=wall_ms,
        off_ms=known.off_ms + wrong_ms,
        lead_ms=max(known.lead_ms, wall_ms - (now.boot_ms + known.ahead_ms)),
        believed_ms=known.believed_ms - wrong_ms,
    )


def set_between(before: Timeline, after: Timeline) -> int:
    """How far the wall clock was set between two looks."""
    return after.wall_ms - before.wall_ms - (after.boot_ms - before.boot_ms)


def doubt(reading: Reading, made_ms: int) -> str | None:
    """Why the wall clock cannot be right, or None. ``made_ms``: when this program was made."""
    if reading.wall_ms < made_ms:
        return "it stands before this program was made"
    behind_ms = reading.retention_ms - reading.wall_ms
    if behind_ms >= DOUBT_MS:
        return f"it is {behind_ms // 1000} s behind the time that has passed here"
    return None


def _after_reboot(known: Timeline, now: Moment) -> Timeline:
    """As it goes on, on another boot or another machine: by what the wall clock says has passed.

    Where that one is behind, it goes on for as long as the machine is up.
    """
    passed_ms = now.wall_ms - known.wall_ms
    if passed_ms < 0:
        passed_ms = now.boot_ms
    here = msgspec.structs.replace(
        known,
        boot=now.boot,
        boot_ms=now.boot_ms,
        wall_ms=known.wall_ms + passed_ms,
        ahead_ms=known.steady_ms - now.boot_ms,
    )
    return _after_off(here, passed_ms)


def _after_off(known: Timeline, off_ms: int) -> Timeline:
    """The wall clock alone says that so much has passed: only the steady clock counts all of it."""
    aged_ms = min(off_ms, MOST_OFF_MS)
    return msgspec.structs.replace(
        known,
        ahead_ms=known.ahead_ms + off_ms,
        off_ms=known.off_ms + off_ms - aged_ms,
        believed_ms=min(known.believed_ms + aged_ms, MOST_OFF_MS),
    )
