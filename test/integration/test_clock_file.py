"""The clocks of a node, and the file in which the steady clock is saved."""

from __future__ import annotations

import json
import os

import pytest

from fractal_rm.adapters.clock import FILE, NodeClock
from fractal_rm.adapters.memory import QuietTelemetry

DAY_MS = 86_400_000


def new_clock(folder) -> tuple[NodeClock, QuietTelemetry]:
    """A clock whose file is in ``folder``, and the telemetry to which it reports."""
    telemetry = QuietTelemetry()
    return NodeClock(folder, telemetry), telemetry


def change_file(folder, **changes) -> None:
    """Replace values in the file of a clock."""
    path = folder / FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


async def test_the_next_process_continues_the_steady_clock_if_the_machine_has_not_rebooted(
    tmp_path,
):
    first_clock, _ = new_clock(tmp_path)
    await first_clock.save()
    change_file(
        tmp_path, ahead_ms=first_clock.read().steady_ms - 10 * DAY_MS - first_clock.moment().boot_ms
    )
    second_clock, telemetry = new_clock(tmp_path)
    reading = second_clock.read()
    assert -10 * DAY_MS - 1_000 < reading.ahead_ms < -10 * DAY_MS + 1_000
    assert second_clock.moment().ahead_ms == reading.ahead_ms
    assert reading.id_ms == reading.wall_ms  # the later of the wall clock and the steady clock
    assert telemetry.events == []


async def test_after_a_reboot_the_wall_clock_shows_how_much_time_has_passed(tmp_path):
    first_clock, _ = new_clock(tmp_path)
    await first_clock.save()
    saved = json.loads((tmp_path / FILE).read_text())
    change_file(tmp_path, boot="before", wall_ms=saved["wall_ms"] - 5 * DAY_MS, boot_ms=0,
            ahead_ms=saved["wall_ms"] - 5 * DAY_MS)  # fmt: skip
    second_clock, _ = new_clock(tmp_path)
    reading = second_clock.read()
    assert reading.ahead_ms == 0
    # Of the five days, the retention clock counts only 20 hours.
    assert reading.steady_ms - reading.retention_ms > 3 * DAY_MS


async def test_the_clock_file_is_not_written_at_every_check_of_the_clock(tmp_path):
    clock, _ = new_clock(tmp_path)
    await clock.save()
    content = (tmp_path / FILE).read_bytes()
    clock.detect_changes()
    await clock.save()
    assert (tmp_path / FILE).read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{", b'{"boot": "\xff"}', b'{"boot": ' + b"[" * 100_000,
        b'{"boot": "a", "boot_ms": 1, "wall_ms": 2, "ahead_ms": 1' + b"0" * 400 + b"}",
    ],
)  # fmt: skip
async def test_a_clock_file_that_cannot_be_read_is_reported_and_replaced(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    clock, telemetry = new_clock(tmp_path)
    assert telemetry.events == ["clock_file_ignored"]
    assert clock.read().ahead_ms == 0
    await clock.save()
    _, telemetry = new_clock(tmp_path)
    assert telemetry.events == []


async def test_it_is_reported_once_that_the_folder_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    clock, telemetry = new_clock(tmp_path / "file" / "state")
    await clock.save()
    await clock.save()
    assert telemetry.events == ["clock_file_ignored", "clock_not_saved"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
async def test_a_clock_file_that_is_not_a_regular_file_is_ignored_without_blocking(tmp_path, make):
    make(tmp_path / FILE)
    _, telemetry = new_clock(tmp_path)
    assert telemetry.events == ["clock_file_ignored"]


@pytest.mark.parametrize("by_days", [10, 50 * 365])
async def test_without_its_file_the_clock_continues_after_the_latest_time_in_the_journal(
    tmp_path, by_days
):
    clock, telemetry = new_clock(tmp_path)
    latest_ms = clock.read().wall_ms - by_days * DAY_MS
    clock.continue_after(latest_ms)
    reading = clock.read()
    assert reading.ahead_ms == 0
    assert latest_ms < reading.retention_ms < latest_ms + DAY_MS
    assert telemetry.events == []


async def test_without_its_file_the_clock_is_not_behind_the_latest_time_in_the_journal(tmp_path):
    clock, _ = new_clock(tmp_path)
    # The journal is fifty years ahead of this machine, as if the machine had booted in 1970.
    latest_ms = clock.read().wall_ms + 50 * 365 * DAY_MS
    clock.continue_after(latest_ms)
    await clock.save()
    clock_after_restart, _ = new_clock(tmp_path)
    reading = clock_after_restart.read()
    assert latest_ms <= reading.retention_ms == reading.steady_ms < latest_ms + DAY_MS


async def test_a_clock_file_that_is_far_behind_the_journal_is_ignored(tmp_path):
    board, _ = new_clock(tmp_path)
    await board.save()
    boot_ms = board.moment().boot_ms
    change_file(tmp_path, ahead_ms=-boot_ms)  # the steady clock in the file shows 1970
    clock, telemetry = new_clock(tmp_path)
    clock.continue_after(clock.read().wall_ms - 10 * DAY_MS)
    assert telemetry.events == ["clock_file_ignored"]
    assert clock.read().ahead_ms == 0


@pytest.mark.parametrize("journal_ahead_ms", [None, 0, 60_000])
async def test_a_clock_file_that_is_at_most_a_minute_behind_the_journal_is_used(
    tmp_path, journal_ahead_ms
):
    """After a power loss, the file may be up to a minute old."""
    first_clock, _ = new_clock(tmp_path)
    await first_clock.save()
    change_file(
        tmp_path, ahead_ms=first_clock.read().steady_ms + 10 * DAY_MS - first_clock.moment().boot_ms
    )
    clock, telemetry = new_clock(tmp_path)
    clock.continue_after(journal_ahead_ms and clock.read().steady_ms + journal_ahead_ms)
    assert clock.read().ahead_ms > 9 * DAY_MS
    assert telemetry.events == []
