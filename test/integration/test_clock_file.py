"""The clock of the machine, and the file by which the steady one outlives a process."""

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


async def test_a_later_process_of_the_same_boot_goes_on(tmp_path):
    first, _ = new(tmp_path)
    await first.keep()
    rewrite(tmp_path, ahead_ms=first.read().steady_ms - 10 * DAY_MS - first.moment().boot_ms)
    second, telemetry = new(tmp_path)
    reading = second.read()
    assert -10 * DAY_MS - 1_000 < reading.ahead_ms < -10 * DAY_MS + 1_000
    assert second.moment().ahead_ms == reading.ahead_ms
    assert reading.order_ms == reading.wall_ms  # which is the later one
    assert telemetry.events == []


async def test_after_another_boot_it_goes_on_by_the_wall_clock(tmp_path):
    first, _ = new(tmp_path)
    await first.keep()
    known = json.loads((tmp_path / FILE).read_text())
    rewrite(tmp_path, boot="before", wall_ms=known["wall_ms"] - 5 * DAY_MS, boot_ms=0,
            ahead_ms=known["wall_ms"] - 5 * DAY_MS)  # fmt: skip
    second, _ = new(tmp_path)
    reading = second.read()
    assert reading.ahead_ms == 0
    assert reading.steady_ms - reading.kept_ms > 3 * DAY_MS  # of five days off, one counts


async def test_it_is_written_once_and_not_at_every_look(tmp_path):
    clock, _ = new(tmp_path)
    await clock.keep()
    written = (tmp_path / FILE).read_bytes()
    clock.look()
    await clock.keep()
    assert (tmp_path / FILE).read_bytes() == written


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{", b'{"boot": "\xff"}', b'{"boot": ' + b"[" * 100_000,
        b'{"boot": "a", "boot_ms": 1, "wall_ms": 2, "ahead_ms": 1' + b"0" * 400 + b"}",
    ],
)  # fmt: skip
async def test_a_file_that_cannot_be_read_is_said_and_replaced(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    clock, telemetry = new(tmp_path)
    assert telemetry.events == ["clock_forgotten"]
    assert clock.read().ahead_ms == 0
    await clock.keep()
    assert new(tmp_path)[1].events == []


async def test_a_folder_that_cannot_be_written_is_said_once(tmp_path):
    (tmp_path / "file").write_text("")
    clock, telemetry = new(tmp_path / "file" / "state")
    await clock.keep()
    await clock.keep()
    assert telemetry.events == ["clock_forgotten", "clock_not_kept"]


async def test_a_fifo_in_its_place_keeps_no_start_waiting(tmp_path):
    os.mkfifo(tmp_path / FILE)
    _, telemetry = new(tmp_path)
    assert telemetry.events == ["clock_forgotten"]
