"""The log alone, on a disk that forgets what was not synced, or keeps some sectors of it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.adapters.log.log import Log
from fractal_rm.adapters.log.segments import Reused, bodies_since
from fractal_rm.adapters.memory.disk import MemoryDisk
from fractal_rm.domain.errors import JournalDamaged, JournalFull

SEGMENT = 4096 + 2048


class Salts:
    def __init__(self) -> None:
        self._random = random.Random(1)

    def __call__(self) -> int:
        return self._random.getrandbits(64)


def log_on(disk: MemoryDisk, salts: Salts | None = None, most_bytes: int = 1 << 20) -> Log:
    return Log(lambda: disk, salts or Salts(), segment_bytes=SEGMENT, most_bytes=most_bytes)


def read(disk: MemoryDisk, since: int, salts: Salts | None = None) -> list[bytes]:
    return list(log_on(disk, salts).open(since))


def filled(disk: MemoryDisk, *bodies: bytes) -> Log:
    """A log that has these, each synced."""
    log = log_on(disk)
    assert list(log.open(0)) == []
    for body in bodies:
        log.put(body)
        log.sync()
    return log


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 3000)),
        st.sampled_from([("sync", 0), ("release", 0), ("prepare", 0), ("power", 0), ("kill", 0)]),
    ),
    max_size=60,
)


@given(STEPS, st.integers(0, 2**32))
def test_after_a_power_cut_there_is_all_that_was_synced_and_nothing_that_was_not_written(
    steps, seed
):
    """A history is brought over at a release, as a projection does it, and begins each start."""
    chance, disk, salts = random.Random(seed), MemoryDisk(), Salts()
    log, projected, written = log_on(disk, salts), 0, []
    assert list(log.open(0)) == []
    synced = 0
    for number, (step, size) in enumerate(steps):
        if step == "put":
            body = b"%d:" % number + bytes(chance.randbytes(size))
            log.put(body)
            written.append(body)
        elif step == "sync":
            log.sync()
            synced = len(written)
        elif step == "release":
            log.sync()
            projected, written, synced = log.end, [], 0
            log.release(projected)
        elif step == "prepare":
            log.prepare()
        else:
            if step == "power":
                disk.lose_power(chance)
            log = log_on(disk, salts)
            found = list(log.open(projected))
            assert found == written[: len(found)]
            assert len(found) >= (len(written) if step == "kill" else synced)
            written, synced = found, len(found)
    assert read(disk, projected, salts) == written


def test_a_frame_that_was_synced_and_does_not_hold_is_damage_and_no_torn_end():
    disk = MemoryDisk()
    filled(disk, b"one" * 50, b"two" * 50, b"three" * 50).close()
    name = next(name for name in disk.names() if b"two" in disk.read(name))
    disk.write(name, disk.read(name).index(b"two"), b"TWO")
    with pytest.raises(JournalDamaged, match="segment 1 does not hold at byte"):
        read(disk, 0)


def test_the_end_of_a_log_that_was_never_synced_may_be_anything():
    disk = MemoryDisk()
    log = filled(disk, b"one" * 50)
    log.put(b"two" * 50)
    name = next(name for name in disk.names() if b"two" in disk.read(name))
    disk.write(name, disk.read(name).index(b"two"), b"TWO")
    assert read(disk, 0) == [b"one" * 50]


def test_a_segment_that_is_missing_is_damage():
    disk = MemoryDisk()
    log = filled(disk, *(bytes([n]) * 1500 for n in range(5)))
    log.close()
    first = next(name for name in disk.names() if b"\2" * 1500 in disk.read(name))
    disk.delete(first)
    with pytest.raises(JournalDamaged, match=r"is missing|does not hold"):
        read(disk, 0)


def test_one_sector_of_a_head_may_be_torn():
    disk = MemoryDisk()
    filled(disk, b"one").close()
    for name in disk.names():
        disk.write(name, 0, bytes(512))
    assert read(disk, 0) == [b"one"]


def test_what_does_not_fit_is_refused_and_leaves_no_trace():
    disk = MemoryDisk()
    log = log_on(disk, most_bytes=2 * SEGMENT)
    assert list(log.open(0)) == []
    taken = []
    with pytest.raises(JournalFull, match="not in the history yet"):
        for number in range(100):
            log.put(bytes([number]) * 500)
            taken.append(bytes([number]) * 500)
    disk.full = True
    with pytest.raises(JournalFull):
        log.put(b"x" * 500)
    log.sync()
    end = log.end
    log.release(end)
    log.put(b"there is room again")
    log.sync()
    assert taken
    assert read(disk, end) == [b"there is room again"]


def test_segments_are_used_again_and_one_is_ready_before_it_is_needed():
    disk = MemoryDisk()
    log = log_on(disk)
    assert list(log.open(0)) == []
    for number in range(40):
        log.put(bytes([number]) * 1000)
        log.sync()
        log.release(log.end)
        log.prepare()
    assert len(disk.names()) <= 3
    disk.full = True
    log.put(b"x" * 1900)  # needs the next segment, which is there


def test_who_reads_while_segments_are_used_again_is_told_so():
    class Passing(MemoryDisk):
        """Released and written again between two looks of a reader."""

        log: Log | None = None

        def read(self, name, first=-1):
            found = super().read(name, first)
            if first < 0 and self.log is not None:
                log, self.log = self.log, None
                log.release(log.end)
                for number in range(8):
                    log.put(bytes([number]) * 1500)
            return found

    disk = Passing()
    log = filled(disk, b"one", b"x" * 1900, b"y" * 1900)
    assert bodies_since(disk, 0) == [b"one", b"x" * 1900, b"y" * 1900]
    disk.log = log
    with pytest.raises(Reused):
        bodies_since(disk, 0)


def test_a_reader_beside_a_writer_sees_what_was_put():
    disk = MemoryDisk()
    log = filled(disk, b"one")
    log.put(b"two")
    assert bodies_since(disk, 0) == [b"one", b"two"]


def test_a_sync_covers_no_more_than_what_was_put_when_it_began():
    class Slow(MemoryDisk):
        log: Log | None = None

        def sync(self, name):
            if self.log is not None:
                self.log, log = None, self.log
                log.put(b"late")
                self.late_end = log.end
            super().sync(name)

    disk = Slow()
    log = filled(disk, b"one")
    disk.log = log
    log.put(b"two")
    end = log.end
    log.sync()
    assert log.synced == end < disk.late_end
    disk.lose_power()
    assert read(disk, 0)[:2] == [b"one", b"two"]
