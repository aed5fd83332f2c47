"""The clocks of the machine, and the file in which the steady clock is saved."""

from __future__ import annotations

import json
import os

import pytest

from fractal_rm.adapters.clock import FILE, NodeClock
from fractal_rm.adapters.memory import QuietTelemetry

DAY_MS = 86_400_000


def new(folder) -> tuple[NodeClock, QuietTelemetry]:
    telemetry = QuietTelemetry()
    return NodeClock(folder, telemetry), telemetry


def rewrite(folder, **changes) -> None:
    path = folder / FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


async def test_a_later_process_on_the_same_boot_continues_the_steady_clock(tmp_path):
    first, _ = new(tmp_path)
    await first.save()
    rewrite(tmp_path, ahead_ms=first.read().steady_ms - 10 * DAY_MS - first.moment().boot_ms)
    second, telemetry = new(tmp_path)
    reading = second.read()
    assert -10 * DAY_MS - 1_000 < reading.ahead_ms < -10 * DAY_MS + 1_000
    assert second.moment().ahead_ms == reading.ahead_ms
    assert reading.id_ms == reading.wall_ms  # the id clock follows the later one
    assert telemetry.events == []


async def test_after_a_reboot_the_time_that_has_passed_is_taken_from_the_wall_clock(tmp_path):
    first, _ = new(tmp_path)
    await first.save()
    saved = json.loads((tmp_path / FILE).read_text())
    rewrite(tmp_path, boot="before", wall_ms=saved["wall_ms"] - 5 * DAY_MS, boot_ms=0,
            ahead_ms=saved["wall_ms"] - 5 * DAY_MS)  # fmt: skip
    second, _ = new(tmp_path)
    reading = second.read()
    assert reading.ahead_ms == 0
    assert reading.steady_ms - reading.retention_ms > 3 * DAY_MS  # only 20 hours of five days count


async def test_the_file_is_not_written_at_every_check_of_the_clock(tmp_path):
    clock, _ = new(tmp_path)
    await clock.save()
    written = (tmp_path / FILE).read_bytes()
    clock.detect_changes()
    await clock.save()
    assert (tmp_path / FILE).read_bytes() == written


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{", b'{"boot": "\xff"}', b'{"boot": ' + b"[" * 100_000,
        b'{"boot": "a", "boot_ms": 1, "wall_ms": 2, "ahead_ms": 1' + b"0" * 400 + b"}",
    ],
)  # fmt: skip
async def test_a_file_that_cannot_be_read_is_reported_and_replaced(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    clock, telemetry = new(tmp_path)
    assert telemetry.events == ["clock_file_ignored"]
    assert clock.read().ahead_ms == 0
    await clock.save()
    assert new(tmp_path)[1].events == []


async def test_a_folder_that_cannot_be_written_is_reported_once(tmp_path):
    (tmp_path / "file").write_text("")
    clock, telemetry = new(tmp_path / "file" / "state")
    await clock.save()
    await clock.save()
    assert telemetry.events == ["clock_file_ignored", "clock_not_saved"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
async def test_a_file_that_is_not_a_regular_file_is_ignored_without_blocking(tmp_path, make):
    make(tmp_path / FILE)
    assert new(tmp_path)[1].events == ["clock_file_ignored"]


@pytest.mark.parametrize("by_days", [10, 50 * 365])
async def test_without_its_file_the_clock_continues_after_the_journal(tmp_path, by_days):
    clock, telemetry = new(tmp_path)
    latest_ms = clock.read().wall_ms - by_days * DAY_MS
    clock.continue_after(latest_ms)
    reading = clock.read()
    assert reading.ahead_ms == 0
    assert latest_ms < reading.retention_ms < latest_ms + DAY_MS
    assert telemetry.events == []


async def test_without_its_file_the_clock_is_not_behind_the_journal(tmp_path):
    clock, _ = new(tmp_path)
    latest_ms = clock.read().wall_ms + 50 * 365 * DAY_MS  # as if this machine had booted in 1970
    clock.continue_after(latest_ms)
    await clock.save()
    reading = new(tmp_path)[0].read()
    assert latest_ms <= reading.retention_ms == reading.steady_ms < latest_ms + DAY_MS


async def test_the_file_of_another_journal_is_ignored(tmp_path):
    board, _ = new(tmp_path)
    await board.save()
    years_behind = board.moment().boot_ms
    rewrite(tmp_path, ahead_ms=-years_behind)  # as if the file was made when this board showed 1970
    clock, telemetry = new(tmp_path)
    clock.continue_after(clock.read().wall_ms - 10 * DAY_MS)
    assert telemetry.events == ["clock_file_ignored"]
    assert clock.read().ahead_ms == 0


@pytest.mark.parametrize("latest_ms", [None, 0, 60_000])
async def test_the_file_of_this_journal_is_used(tmp_path, latest_ms):
    """The journal may be a minute ahead: a power loss may lose the last minute of the clock."""
    first, _ = new(tmp_path)
    await first.save()
    rewrite(tmp_path, ahead_ms=first.read().steady_ms + 10 * DAY_MS - first.moment().boot_ms)
    clock, telemetry = new(tmp_path)
    clock.continue_after(latest_ms and clock.read().steady_ms + latest_ms)
    assert clock.read().ahead_ms > 9 * DAY_MS
    assert telemetry.events == []
