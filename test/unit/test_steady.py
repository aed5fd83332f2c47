"""The steady clock does not jump when the wall clock is set, and continues after a reboot."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.moment import Moment
from fractal_rm.domain.steady import (
    MAX_REBOOT_AGING_MS,
    WRITE_EVERY_MS,
    Timeline,
    timeline_at_start,
    updated_timeline,
    wall_clock_fault,
    wall_clock_set_by,
)

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
YEAR_MS = 365 * DAY_MS
NOW_MS = 1_800_000_000_000  # 2027-01-15T08:00:00Z


@dataclass
class Machine:
    """A machine whose clocks tests can change, and the timeline of its node."""

    wall_ms: int = NOW_MS
    boot_ms: int = 5_000
    boots: int = 1

    def __post_init__(self):
        self.timeline = timeline_at_start(None, self.moment())
        self.written = self.timeline

    def moment(self) -> Moment:
        return Moment(f"boot {self.boots}", self.boot_ms, self.wall_ms)

    def reading(self):
        return self.timeline.read(self.timeline.boot_ms)

    def read_clocks(self) -> int:
        """Let the node read the clocks. Returns by how many ms the wall clock was set."""
        earlier_timeline = self.timeline
        self.timeline = updated_timeline(earlier_timeline, self.moment())
        since_ms = self.timeline.boot_ms - self.written.boot_ms
        if since_ms >= WRITE_EVERY_MS or wall_clock_set_by(earlier_timeline, self.timeline):
            self.written = self.timeline
        return wall_clock_set_by(earlier_timeline, self.timeline)

    def pass_time(self, ms: int) -> int:
        """Let time pass, and then let the node read its clocks. A suspend has the same effect."""
        self.wall_ms += ms
        self.boot_ms += ms
        return self.read_clocks()

    def set_wall_clock_by(self, ms: int) -> int:
        """Set the wall clock. Returns by how many ms the node has noticed that it was set."""
        self.wall_ms += ms
        return self.read_clocks()

    def restart(self):
        """Start another process of the node, on the same boot."""
        self.timeline = timeline_at_start(self.written, self.moment())

    def reboot(self, off_ms: int, *, wall_ms: int | None = None, up_ms: int = 10_000):
        """Cut the power for ``off_ms``. ``wall_ms``: the time on the wall clock afterwards."""
        self.wall_ms = self.wall_ms + off_ms + up_ms if wall_ms is None else wall_ms
        self.boots, self.boot_ms = self.boots + 1, up_ms
        self.timeline = timeline_at_start(self.written, self.moment())
        self.written = self.timeline


def test_all_clocks_agree_until_the_wall_clock_is_set():
    machine = Machine()
    machine.pass_time(HOUR_MS)
    machine.restart()
    machine.pass_time(7)
    machine.reboot(2 * HOUR_MS)
    reading = machine.reading()
    assert reading.wall_ms == reading.steady_ms == reading.retention_ms == reading.id_ms
    assert reading.wall_ms == machine.wall_ms
    assert reading.ahead_ms == 0


SETTINGS = [HOUR_MS, 10 * DAY_MS, 50 * YEAR_MS, -HOUR_MS, -10 * DAY_MS, -50 * YEAR_MS]


@pytest.mark.parametrize("by_ms", SETTINGS)
@pytest.mark.parametrize("next_event", ["", "restart", "reboot"])
def test_setting_the_wall_clock_changes_no_other_clock(by_ms, next_event):
    machine = Machine()
    before = machine.reading()
    assert machine.set_wall_clock_by(by_ms) == by_ms
    machine.pass_time(30_000)
    if next_event == "restart":
        machine.restart()
    if next_event == "reboot":
        machine.reboot(20_000, up_ms=10_000)
    passed_ms = 60_000 if next_event == "reboot" else 30_000
    after = machine.reading()
    assert after.steady_ms - before.steady_ms == passed_ms
    assert after.retention_ms - before.retention_ms == passed_ms
    assert after.wall_ms - before.wall_ms == passed_ms + by_ms
    assert after.id_ms - before.id_ms == passed_ms + max(0, by_ms)


def test_the_wall_clock_of_a_board_without_a_battery_is_wrong_until_it_is_set():
    machine = Machine()
    machine.pass_time(5 * DAY_MS)
    before = machine.reading()
    machine.reboot(6 * HOUR_MS, wall_ms=30_000, up_ms=30_000)
    booted = machine.reading()
    assert booted.steady_ms - before.steady_ms == 30_000
    assert "before the release of this program" in wall_clock_fault(booted, NOW_MS - YEAR_MS)
    machine.pass_time(HOUR_MS)
    machine.set_wall_clock_by(NOW_MS + 5 * DAY_MS + 7 * HOUR_MS - machine.wall_ms)
    after = machine.reading()
    assert after.steady_ms - booted.steady_ms == HOUR_MS
    assert after.id_ms >= after.wall_ms == machine.wall_ms
    assert wall_clock_fault(after, NOW_MS - YEAR_MS) is None


def test_a_clock_fifty_years_ahead_at_boot_ages_history_by_20_hours_until_it_is_corrected():
    machine = Machine()
    before = machine.reading()
    machine.reboot(60_000, wall_ms=NOW_MS + 50 * YEAR_MS)
    after = machine.reading()
    assert after.steady_ms - before.steady_ms == 50 * YEAR_MS  # open runs are 50 years older
    assert after.retention_ms - before.retention_ms <= MAX_REBOOT_AGING_MS + 10_000
    machine.set_wall_clock_by(-50 * YEAR_MS)
    machine.pass_time(1_000)
    corrected = machine.reading()
    assert corrected.retention_ms - before.retention_ms == 1_000
    assert corrected.steady_ms - after.steady_ms == corrected.id_ms - after.id_ms == 1_000
    assert wall_clock_fault(corrected, 0) is None


@pytest.mark.parametrize("ahead_ms", [2 * HOUR_MS, 73 * YEAR_MS])
@pytest.mark.parametrize("corrected", ["at once", "when stopped", "at every other boot"])
def test_a_board_whose_clock_is_ahead_at_each_boot_keeps_its_history(ahead_ms, corrected):
    """For example a hardware clock with local time; NTP sets the wall clock after each boot."""
    machine = Machine()
    before, right_ms = machine.reading(), NOW_MS
    for boot in range(6):
        right_ms += 5 * MINUTE_MS
        machine.reboot(0, wall_ms=right_ms + ahead_ms)
        if corrected == "at every other boot" and boot % 2 == 0:
            continue
        machine.wall_ms = right_ms
        machine.restart() if corrected == "when stopped" else machine.read_clocks()
        machine.written = machine.timeline
    after = machine.reading()
    assert 0 <= after.retention_ms - before.retention_ms <= 31 * MINUTE_MS
    assert wall_clock_fault(after, 0) is None


@pytest.mark.parametrize("by_ms", [HOUR_MS, 50 * YEAR_MS])
@pytest.mark.parametrize("next_event", ["", "restart", "reboot"])
def test_a_corrected_wall_clock_is_not_reported_as_wrong(by_ms, next_event):
    machine = Machine()
    machine.set_wall_clock_by(by_ms)
    machine.pass_time(1_000)
    machine.set_wall_clock_by(-by_ms)
    machine.pass_time(1_000)
    if next_event == "restart":
        machine.restart()
    if next_event == "reboot":
        machine.reboot(20_000)
    assert wall_clock_fault(machine.reading(), 0) is None


@pytest.mark.parametrize("next_event", ["set", "reboot"])
def test_a_wall_clock_that_goes_back_is_reported_as_wrong(next_event):
    machine = Machine()
    if next_event == "set":
        machine.set_wall_clock_by(-HOUR_MS)
    else:
        machine.reboot(0, wall_ms=NOW_MS - HOUR_MS)
    assert "behind" in wall_clock_fault(machine.reading(), 0)


def test_on_another_machine_with_a_long_uptime_the_wall_clock_is_used():
    """For example a container that moves to another machine, with its state folder."""
    machine = Machine()
    before = machine.reading()
    machine.reboot(0, wall_ms=NOW_MS + MINUTE_MS, up_ms=100 * DAY_MS)
    after = machine.reading()
    assert after.steady_ms - before.steady_ms == MINUTE_MS
    assert after.retention_ms - before.retention_ms == MINUTE_MS
    assert after.id_ms == after.wall_ms == machine.wall_ms
    machine.pass_time(7)
    assert machine.reading().steady_ms - after.steady_ms == 7


def test_on_another_machine_whose_wall_clock_is_behind_history_ages_by_at_most_20_hours():
    machine = Machine()
    before = machine.reading()
    machine.reboot(0, wall_ms=NOW_MS - 10_000, up_ms=100 * DAY_MS)
    after = machine.reading()
    # The age of open runs may grow by the whole time.
    assert after.steady_ms - before.steady_ms == 100 * DAY_MS
    assert 0 <= after.retention_ms - before.retention_ms <= MAX_REBOOT_AGING_MS


def test_a_move_to_another_time_namespace_counts_as_a_reboot():
    """CLOCK_BOOTTIME is lower in the other namespace, and the boot id is the same."""
    machine = Machine()
    machine.pass_time(DAY_MS)
    before = machine.reading()
    machine.boot_ms, machine.wall_ms = 1_000, machine.wall_ms + 1_000
    machine.restart()
    assert machine.reading().steady_ms - before.steady_ms == 1_000


def test_a_difference_of_one_millisecond_is_not_a_change_of_the_wall_clock():
    timeline = Timeline("boot", 1_000, NOW_MS, NOW_MS - 1_000)
    later = updated_timeline(timeline, Moment("boot", 1_500, NOW_MS + 501))
    assert wall_clock_set_by(timeline, later) == 0
    assert later.read(1_500).ahead_ms == 0


events = st.one_of(
    st.tuples(st.just("time passes"), st.integers(0, 40 * DAY_MS)),
    st.tuples(st.just("set"), st.integers(-60 * YEAR_MS, 60 * YEAR_MS)),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("reboot"), st.integers(0, YEAR_MS)),
    st.tuples(st.just("reboot with this wall time"), st.integers(0, 130 * YEAR_MS)),
)


@given(st.lists(events, max_size=30))
def test_the_steady_clock_never_runs_slower_than_the_machine_and_loses_at_most_a_minute(history):
    machine = Machine()
    for event, number in history:
        before, uncounted_ms = machine.reading(), machine.timeline.counted_reboot_ms
        least_ms = 0
        if event == "time passes":
            unwritten_ms = min(number, 30_000)  # at the end, the node has not written this time
            machine.pass_time(number - unwritten_ms)
            machine.pass_time(unwritten_ms)
            least_ms = number
        elif event == "set":
            machine.set_wall_clock_by(number)
        elif event == "restart":
            machine.restart()
        elif event == "reboot":
            machine.reboot(number)
        else:
            machine.reboot(0, wall_ms=number)
            least_ms = -WRITE_EVERY_MS  # the time since the last write may be lost
        after = machine.reading()
        assert after.steady_ms - before.steady_ms >= least_ms
        uncounted_ms -= machine.timeline.counted_reboot_ms  # no longer counted as reboot time
        assert after.retention_ms - before.retention_ms >= least_ms - max(0, uncounted_ms)
        assert 0 <= machine.timeline.counted_reboot_ms <= MAX_REBOOT_AGING_MS
        assert after.id_ms - before.id_ms >= least_ms
        assert after.id_ms >= after.wall_ms
        assert after.retention_ms <= after.steady_ms
