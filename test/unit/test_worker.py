"""A worker: its thread waits for the disk; what is short is done without it."""

from __future__ import annotations

import threading

import pytest

from fractal_rm.adapters.worker import SHORT_IN_A_ROW, SHORT_S, Worker


class Times:
    """A clock that goes on by as much as each piece of work takes."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def takes(self, seconds: float):
        """A piece of work; it comes to the thread that has done it."""

        def work() -> threading.Thread:
            self.now_s += seconds
            return threading.current_thread()

        return work


@pytest.fixture
def times():
    return Times()


@pytest.fixture
async def worker(times):
    one = Worker("disk", lambda: times.now_s)
    one.start()
    yield one
    one.end()


HERE = threading.current_thread()


async def where(worker: Worker, times: Times, *seconds: float) -> list[bool]:
    """Whether each piece of so many seconds is done on the event loop's own thread."""
    return [await worker.run_short(times.takes(each)) is HERE for each in seconds]


async def test_work_is_done_at_once_when_many_pieces_in_a_row_were_short(worker, times):
    assert await where(worker, times, *[0] * SHORT_IN_A_ROW, 0, 0) == [
        *[False] * SHORT_IN_A_ROW, True, True,
    ]  # fmt: skip


async def test_one_long_piece_sends_those_that_follow_to_the_thread(worker, times):
    await where(worker, times, *[0] * SHORT_IN_A_ROW)
    assert await where(worker, times, SHORT_S, *[0] * SHORT_IN_A_ROW, 0) == [
        True, *[False] * SHORT_IN_A_ROW, True,
    ]  # fmt: skip


async def test_nothing_is_done_beside_what_the_thread_does(worker, times):
    await where(worker, times, *[0] * SHORT_IN_A_ROW)
    go_on = threading.Event()
    under_way = worker.run(go_on.wait)
    short = worker.run_short(times.takes(0))
    go_on.set()
    assert await short is not HERE
    assert await under_way


async def test_what_a_short_piece_raises_is_raised_wherever_it_is_done(worker, times):
    def fails() -> None:
        raise OSError("no disk")

    for short in ([], [0] * SHORT_IN_A_ROW):
        await where(worker, times, *short)
        with pytest.raises(OSError, match="no disk"):
            await worker.run_short(fails)
