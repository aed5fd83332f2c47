"""The log of a journal, without a history, on a disk that can lose unsynced sectors."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable
from contextlib import contextmanager
from errno import EACCES
from functools import partial
from zlib import crc32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fractal_rm.adapters.log import records
from fractal_rm.adapters.log.blobs import Blobs, find_lost_blob
from fractal_rm.adapters.log.blobs import read as read_blob
from fractal_rm.adapters.log.disk import FolderDisk
from fractal_rm.adapters.log.log import Log
from fractal_rm.adapters.log.segments import BEGIN, READ_BYTES, SegmentReleased, bodies_since
from fractal_rm.adapters.log.survey import survey
from fractal_rm.adapters.log.timed import Blob, Ref
from fractal_rm.adapters.memory.blobs import MemoryBlobs
from fractal_rm.adapters.memory.disk import MemoryDisk
from fractal_rm.domain.journal_errors import (
    JournalDamaged,
    JournalForbidden,
    JournalFull,
    JournalMoved,
    JournalNoDescriptor,
)

SEGMENT = 4096 + 2048


class Salts:
    """A source of salts with a fixed seed."""

    def __init__(self) -> None:
        self._random = random.Random(1)

    def __call__(self) -> int:
        return self._random.getrandbits(64)


def log_on(disk: MemoryDisk, salts: Salts | None = None, max_bytes=1 << 20, blobs=None,
           segment_bytes=SEGMENT) -> Log:  # fmt: skip
    return Log(
        disk, Blobs(blobs or MemoryBlobs()), salts or Salts(), segment_bytes=segment_bytes,
        max_bytes=max_bytes,
    )  # fmt: skip


def body_with_blob(log: Log, value: bytes) -> tuple[bytes, list[Blob]]:
    """Make a blob with ``value``, and a body that refers to it. Returns the body and the blob."""
    ref = Ref("payload", log.new_blob_name(), len(value), crc32(value))
    return records.encode([("blobs", [ref])]), [Blob(ref, value)]


def open_for_writing(log: Log, since: int = 0) -> list[bytes]:
    """Open a log for writing. Returns the bodies that begin at the position ``since`` or later."""
    bodies = [body for body, _ in log.open(since)]
    log.begin()
    return bodies


def bodies_in(disk: MemoryDisk) -> list[bytes]:
    return [body for body, _ in bodies_since(disk, 0)]


def read_log(disk: MemoryDisk, since: int, salts: Salts | None = None) -> list[bytes]:
    """Open the log on a disk, as a new process does. Like `open_for_writing`, return its bodies."""
    return open_for_writing(log_on(disk, salts), since)


class InlineWorker:
    """A worker without a thread: `run` calls the function itself."""

    async def run(self, work):
        return work()


def prepare(log: Log) -> None:
    """Let the log create its next segment."""
    with pytest.raises(StopIteration):
        log.prepare(InlineWorker()).send(None)


def log_with(disk: MemoryDisk, *bodies: bytes) -> Log:
    """Make a log with these bodies. The log is synced after each body."""
    log = log_on(disk)
    assert open_for_writing(log) == []
    for body in bodies:
        log.put(body)
        log.sync()
    return log


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "blob"]), st.integers(1, 3000)),
        st.sampled_from([("sync", 0), ("release", 0), ("prepare", 0), ("power", 0), ("kill", 0)]),
    ),
    max_size=60,
)


@given(STEPS, st.integers(0, 2**32))
@example([("put", 2901), ("put", 1), ("put", 2993), ("power", 0)], 253)  # here, a header is lost
@example([("blob", 100), ("sync", 0), ("power", 0)], 1)
@example([("put", 10), ("blob", 100), ("power", 0)], 30)  # here, a part of the blob becomes zeros
@example([("blob", 100), ("kill", 0), ("sync", 0), ("power", 0)], 1)
def test_after_a_power_loss_a_log_has_all_synced_bodies_and_no_damage(steps, seed):
    """The bodies in the log are the first N written bodies. They include all synced bodies.

    The step "release" sets the position from which a start reads the log, as a projection does.
    """
    chance, disk, salts, blobs = random.Random(seed), MemoryDisk(), Salts(), MemoryBlobs()
    log, start_position, written_bodies = log_on(disk, salts, blobs=blobs), 0, []
    assert open_for_writing(log) == []
    synced_count = 0
    for number, (step, size) in enumerate(steps):
        if step == "put":
            body = b"%d:" % number + bytes(chance.randbytes(size))
            log.put(body)
            written_bodies.append(body)
        elif step == "blob":
            body, blob = body_with_blob(log, chance.randbytes(size))
            log.put(body, blob)
            written_bodies.append(body)
        elif step == "sync":
            log.sync()
            synced_count = len(written_bodies)
        elif step == "release":
            log.sync()
            start_position, written_bodies, synced_count = log.end, [], 0
            log.release(start_position)
        elif step == "prepare":
            prepare(log)
        else:
            if step == "power":
                disk.lose_power(chance)
                blobs.lose_power(chance)
            log, surveyed = log_on(disk, salts, blobs=blobs), survey(disk, start_position, blobs)
            bodies = open_for_writing(log, start_position)
            assert all(lost_blob(blobs, body) is None for body in bodies)
            assert (surveyed.gaps, surveyed.problems) == ([], [])
            assert [body for part in surveyed.parts for body, _ in part] == bodies
            assert bodies == written_bodies[: len(bodies)]
            kept_count = len(written_bodies) if step == "kill" else synced_count
            assert len(bodies) >= kept_count
            written_bodies, synced_count = bodies, len(bodies)
    assert open_for_writing(log_on(disk, salts, blobs=blobs), start_position) == written_bodies


def lost_blob(blobs: MemoryBlobs, body: bytes) -> str | None:
    """What is wrong with the blob of a body. None if the body has no blob, or a complete one."""
    return find_lost_blob(blobs, body, read_blob)


def test_an_invalid_frame_that_was_synced_is_damage():
    disk = MemoryDisk()
    log_with(disk, b"one" * 50, b"two" * 50, b"three" * 50).close()
    name = next(name for name in disk.names() if b"two" in disk.read(name))
    disk.write(name, disk.read(name).index(b"two"), b"TWO")
    with pytest.raises(JournalDamaged, match=r"segment 1 \(file 1\) is not valid at byte"):
        read_log(disk, 0)


@pytest.mark.parametrize("size", [50, 1500])  # all bodies in one segment, or in several segments
def test_a_reader_reports_damage_but_not_an_unfinished_write_at_the_end(size):
    disk = MemoryDisk()
    log = log_with(disk, *(bytes([n]) * size for n in b"abcde"))
    log.put(b"f" * size)
    name = next(name for name in disk.names() if b"f" * size in disk.read(name))
    disk.write(name, disk.read(name).index(b"f" * size), b"torn")
    assert bodies_in(disk) == [bytes([n]) * size for n in b"abcde"]
    name = next(name for name in disk.names() if b"b" * size in disk.read(name))
    disk.write(name, disk.read(name).index(b"b" * size), b"flipped")
    with pytest.raises(JournalDamaged, match=r"segment \d+ \(file \d+\) is not valid at byte"):
        bodies_since(disk, 0)


def test_a_reader_reports_damage_in_a_large_frame():
    disk = MemoryDisk()
    log = log_on(disk, segment_bytes=1 << 18)
    assert open_for_writing(log) == []
    put_and_sync(log, b"a", b"b" * 2 * READ_BYTES, b"c", b"d")
    (name,) = disk.names()
    disk.write(name, disk.read(name).index(b"bbb"), b"flipped")
    with pytest.raises(JournalDamaged, match=r"segment 1 \(file 1\) is not valid at byte"):
        bodies_since(disk, 0)


class DiskWithAction(MemoryDisk):
    """Calls ``action`` once: after the first read that begins behind ``after_place``."""

    def __init__(self, after_place: int = 0) -> None:
        super().__init__()
        self._after_place = after_place
        self.action: Callable[[], None] | None = None

    def read(self, name, max_bytes=-1, place=0):
        data = super().read(name, max_bytes, place)
        if place > self._after_place and self.action is not None:
            action, self.action = self.action, None
            action()
        return data


def put_and_sync(log: Log, *bodies: bytes) -> None:
    for body in bodies:
        log.put(body)
        log.sync()


def test_frames_that_are_written_during_a_read_are_not_damage():
    disk = DiskWithAction()
    disk.action = partial(put_and_sync, log_with(disk, b"one"), b"two", b"three")
    assert bodies_in(disk)[:1] == [b"one"]
    assert disk.action is None


def test_a_segment_that_is_begun_during_a_read_is_not_damage():
    """The new segment is begun and synced after the reader has read the last segment."""
    disk = DiskWithAction(after_place=BEGIN)
    disk.action = partial(put_and_sync, log_with(disk, b"x" * 1900), b"y" * 1900, b"z" * 1900)
    assert bodies_in(disk)[:1] == [b"x" * 1900]
    assert disk.action is None


def test_an_invalid_end_that_was_never_synced_is_ignored():
    disk = MemoryDisk()
    log = log_with(disk, b"one" * 50)
    log.put(b"two" * 50)
    name = next(name for name in disk.names() if b"two" in disk.read(name))
    disk.write(name, disk.read(name).index(b"two"), b"TWO")
    assert read_log(disk, 0) == [b"one" * 50]


def test_a_missing_segment_is_damage():
    disk = MemoryDisk()
    log = log_with(disk, *(bytes([n]) * 1500 for n in range(5)))
    log.close()
    third = next(name for name in disk.names() if b"\2" * 1500 in disk.read(name))
    disk.delete(third)
    with pytest.raises(JournalDamaged, match=r"is missing|is not valid"):
        read_log(disk, 0)


def test_a_log_that_has_lost_one_copy_of_each_header_can_be_read():
    disk = MemoryDisk()
    log_with(disk, b"one").close()
    for name in disk.names():
        disk.write(name, 0, bytes(512))
    assert read_log(disk, 0) == [b"one"]


def test_a_body_without_room_is_refused_and_not_written():
    disk = MemoryDisk()
    log = log_on(disk, max_bytes=2 * SEGMENT)
    assert open_for_writing(log) == []
    accepted_bodies = []
    with pytest.raises(JournalFull, match="not in the history yet"):
        for number in range(100):
            log.put(bytes([number]) * 500)
            accepted_bodies.append(bytes([number]) * 500)
    disk.full = True
    with pytest.raises(JournalFull):
        log.put(b"x" * 500)
    log.sync()
    end = log.end
    log.release(end)
    log.put(b"there is room again")
    log.sync()
    assert accepted_bodies
    assert read_log(disk, end) == [b"there is room again"]


def test_segments_are_reused_and_the_next_segment_is_prepared_before_it_is_needed():
    disk = MemoryDisk()
    log = log_on(disk)
    assert open_for_writing(log) == []
    for number in range(40):
        log.put(bytes([number]) * 1000)
        log.sync()
        log.release(log.end)
        prepare(log)
    assert len(disk.names()) <= 3
    disk.full = True
    log.put(b"x" * 1900)  # does not fit into the segment, and so uses the prepared segment


def test_a_reader_notices_reused_segments():
    disk = DiskWithAction()
    log = log_with(disk, b"one", b"x" * 1900, b"y" * 1900)
    assert bodies_in(disk) == [b"one", b"x" * 1900, b"y" * 1900]

    def release_and_write_again() -> None:
        log.release(log.end)
        for number in range(8):
            log.put(bytes([number]) * 1500)

    disk.action = release_and_write_again
    with pytest.raises(SegmentReleased):
        bodies_since(disk, 0)


def test_a_reader_finds_bodies_that_are_not_synced_yet():
    disk = MemoryDisk()
    log = log_with(disk, b"one")
    log.put(b"two")
    assert bodies_in(disk) == [b"one", b"two"]


def test_a_body_that_is_written_during_a_sync_does_not_count_as_synced():
    class DiskThatWritesDuringSync(MemoryDisk):
        log: Log | None = None

        def sync(self, name):
            if self.log is not None:
                self.log, log = None, self.log
                log.put(b"late")
                self.late_end = log.end
            super().sync(name)

    disk = DiskThatWritesDuringSync()
    log = log_with(disk, b"one")
    disk.log = log
    log.put(b"two")
    end = log.end
    log.sync()
    assert log.synced == end < disk.late_end
    disk.lose_power()
    assert read_log(disk, 0)[:2] == [b"one", b"two"]


def test_repeated_starts_of_killed_processes_create_no_new_files():
    disk = MemoryDisk()
    log_with(disk, b"one", b"x" * 1900, b"y" * 1900).close()
    log = log_on(disk)
    bodies = open_for_writing(log)
    files = len(disk.names())
    for _ in range(5):
        assert open_for_writing(log_on(disk)) == bodies
    assert len(disk.names()) == files


def test_a_full_log_can_be_opened():
    disk = MemoryDisk()
    log = log_on(disk, max_bytes=2 * SEGMENT)
    open_for_writing(log)
    with pytest.raises(JournalFull):
        while True:
            log.put(b"x" * 500)
    log.close()
    log = log_on(disk, max_bytes=2 * SEGMENT)
    assert set(open_for_writing(log)) == {b"x" * 500}
    log.release(log.end)
    log.put(b"there is room")


def test_a_segment_that_is_created_on_a_thread_has_a_unique_name():
    """While a thread creates a segment, the log needs three more segments."""
    disk = MemoryDisk()
    log = log_on(disk)
    open_for_writing(log)

    class WorkerDuringWrites:
        async def run(self, work):
            for n in range(3):
                log.put(bytes([n]) * 1900)
            log.sync()
            return work()

    with pytest.raises(StopIteration):
        log.prepare(WorkerDuringWrites()).send(None)
    assert read_log(disk, 0) == [bytes([n]) * 1900 for n in range(3)]


@pytest.mark.parametrize("salt", ["of this log", "of another log"])
def test_a_segment_of_another_log_is_never_read_as_a_segment_of_this_log(salt):
    disk, other = MemoryDisk(), MemoryDisk()
    bodies = [bytes([n]) * 1900 for n in range(6)]
    log = log_with(disk, *bodies)
    log.close()
    salts = Salts()
    if salt == "of another log":
        salts()
    log = log_on(other, salts)
    open_for_writing(log)
    for body in bodies:
        log.put(body)
        log.sync()
    names = sorted(disk.names())
    for name in names[1:-1]:
        copy = MemoryDisk()
        for each in names:
            copy.create(each, disk.size(each))
            copy.write(each, 0, (other if each == name else disk).read(each))
        if salt == "of this log":
            assert read_log(copy, 0) == bodies
        else:
            with pytest.raises(JournalDamaged, match=r"segment \d+ \(file \d+\) is not valid"):
                read_log(copy, 0)


def test_an_error_names_two_files_with_the_same_segment():
    disk = MemoryDisk()
    log_with(disk, b"one").close()
    (name,) = disk.names()
    disk.create("9", disk.size(name))
    disk.write("9", 0, disk.read(name))
    with pytest.raises(JournalDamaged, match="files 1 and 9 both contain segment 1"):
        read_log(disk, 0)


@pytest.fixture
def folder(tmp_path):
    """A folder with a log of three segments, as a process leaves it when it is killed."""
    log = log_on(FolderDisk(tmp_path))
    open_for_writing(log)
    for number in range(3):
        log.put(bytes([number]) * 1900)
    log.close()
    return tmp_path


def test_an_unfinished_file_of_a_killed_process_is_ignored(folder):
    """Otherwise the log would write into the file, or create a second file with the same name."""
    bodies = [body for body, _ in log_on(FolderDisk(folder)).open(0)]
    for name in range(1, 10):
        (folder / f"{name}.new").write_bytes(bytes(SEGMENT))
    log = log_on(FolderDisk(folder))
    assert open_for_writing(log) == bodies
    for number in range(3, 9):
        log.put(bytes([number]) * 1900)
    log.close()
    assert open_for_writing(log_on(FolderDisk(folder))) == [bytes([n]) * 1900 for n in range(9)]


def test_a_deleted_free_file_is_created_again(folder):
    log = log_on(FolderDisk(folder))
    open_for_writing(log)
    files_before = set(folder.iterdir())
    prepare(log)
    (free_file,) = set(folder.iterdir()) - files_before
    free_file.unlink()
    log.put(b"x" * 1900)
    log.put(b"y" * 1900)
    log.close()
    assert open_for_writing(log_on(FolderDisk(folder)))[-2:] == [b"x" * 1900, b"y" * 1900]


def test_a_file_in_place_of_the_folder_is_reported(folder):
    log = log_on(FolderDisk(folder))
    open_for_writing(log)
    aside = folder.rename(folder.with_name("aside"))
    folder.touch()
    with pytest.raises(JournalMoved, match="is not the file that is open"):
        prepare(log)
    folder.unlink()
    aside.rename(folder)
    prepare(log)
    log.close()


@contextmanager
def without_free_descriptors():
    """A context in which this process cannot open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def find_room(log: Log) -> None:
    """Let a log try to create a segment, as it does after it has refused a body."""
    with pytest.raises(StopIteration):
        log.find_room(InlineWorker()).send(None)


@pytest.mark.parametrize("is_ready", [False, True], ids=["no segment ready", "one ready"])
def test_without_a_free_descriptor_a_log_refuses_bodies_and_then_continues(folder, is_ready):
    log = log_on(FolderDisk(folder))
    open_for_writing(log)
    log.put(b"x" * 1900)
    if is_ready:
        prepare(log)
    with without_free_descriptors():
        with pytest.raises(JournalNoDescriptor):
            log.put(b"y" * 1900)
        with pytest.raises(JournalNoDescriptor):
            find_room(log)
    find_room(log)
    with without_free_descriptors():  # the log has already opened the next segment
        log.put(b"y" * 1900)
    log.close()
    assert open_for_writing(log_on(FolderDisk(folder)))[-2:] == [b"x" * 1900, b"y" * 1900]


@contextmanager
def without_write_permission():
    """A context that simulates a user without write permission, as the tests may run as root."""

    def forbidden(_, name, *_arguments):
        raise PermissionError(EACCES, "Permission denied", name)

    with pytest.MonkeyPatch.context() as patch:
        for method in ("create", "delete"):
            patch.setattr(FolderDisk, method, forbidden)
        yield


def test_without_write_permission_a_log_refuses_bodies_and_then_continues(folder):
    log = log_on(FolderDisk(folder))
    open_for_writing(log)
    log.put(b"x" * 1900)
    with without_write_permission():
        with pytest.raises(JournalForbidden, match="give the user"):
            log.put(b"y" * 1900)
        with pytest.raises(JournalForbidden):
            find_room(log)
    find_room(log)
    log.put(b"y" * 1900)
    log.close()
    assert open_for_writing(log_on(FolderDisk(folder)))[-2:] == [b"x" * 1900, b"y" * 1900]


def test_segments_that_could_not_be_deleted_are_reused_after_a_restart(folder):
    log = log_on(FolderDisk(folder))
    open_for_writing(log)
    for number in range(9):
        log.put(bytes([number]) * 1900)
    log.sync()
    since = log.end
    with without_write_permission():
        log.release(since)
    log.put(b"z" * 1900)
    log.close()
    files_before = set(folder.iterdir())
    log = log_on(FolderDisk(folder))
    assert open_for_writing(log, since) == [b"z" * 1900]
    log.put(b"y" * 1900)
    log.close()
    assert set(folder.iterdir()) == files_before
