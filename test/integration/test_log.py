"""If log lines cannot be written, the node continues to work and reports their number."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import threading
from collections import Counter

import pytest

from fractal_rm.adapters.telemetry.line_writer import LineWriter
from fractal_rm.adapters.telemetry.outlets import LogFile, Stream
from nodes import NodeProcess, wait_until


class FaultyOutlet:
    """An outlet that fails while ``fails`` is true, and blocks until ``unblocked`` is set."""

    def __init__(self) -> None:
        self.text = b""
        self.fails = False
        self.attempts = 0
        self.unblocked = threading.Event()
        self.unblocked.set()

    def write(self, line: bytes) -> int:
        self.attempts += 1
        if self.fails:
            raise OSError("no space left on device")
        self.unblocked.wait()
        part = line[:5]  # a partial write, which a pipe allows
        self.text += part
        return len(part)


@pytest.fixture
def outlet():
    outlet = FaultyOutlet()
    yield outlet
    outlet.fails = False
    outlet.unblocked.set()


def writer_to(outlet: FaultyOutlet) -> LineWriter:
    return LineWriter(outlet, max_queued_bytes=100, retry_s=0.01)


def write(writer: LineWriter, *lines: str) -> None:
    for line in lines:
        writer.handle(logging.makeLogRecord({"msg": line}))


@pytest.mark.parametrize("fault", ["fails", "blocks"])
def test_lines_that_a_full_queue_loses_are_replaced_by_one_line_with_their_count(outlet, fault):
    writer = writer_to(outlet)
    write(writer, "before")
    writer.flush()
    outlet.fails = fault == "fails"
    outlet.unblocked.clear()
    write(writer, *(f"line {n:03}" for n in range(20)))  # 9 bytes each with the line end
    outlet.fails = False
    outlet.unblocked.set()
    wait_until(lambda: b"count=9" in outlet.text)
    write(writer, "after")
    writer.flush()
    lines = outlet.text.decode().splitlines()
    assert lines == [
        "before", *(f"line {n:03}" for n in range(11)), "log_lines_lost count=9", "after"
    ]  # fmt: skip
    writer.close()


def test_a_flush_does_not_wait_while_writing_fails(outlet):
    outlet.fails = True
    writer = writer_to(outlet)
    write(writer, "never")
    wait_until(lambda: outlet.attempts)
    writer.flush()
    writer.close()
    assert outlet.text == b""


def test_after_the_log_file_is_moved_away_the_next_line_goes_to_a_new_file(tmp_path):
    log = LogFile(str(tmp_path / "rm.log"))
    log.write(b"one\n")
    (tmp_path / "rm.log").rename(tmp_path / "rm.log.old")
    log.write(b"two\n")
    assert (tmp_path / "rm.log.old").read_text() == "one\n"
    assert (tmp_path / "rm.log").read_text() == "two\n"


def test_writing_fails_while_the_folder_of_the_log_is_missing(tmp_path):
    (tmp_path / "log").mkdir()
    log = LogFile(str(tmp_path / "log" / "rm.log"))
    (tmp_path / "log").rename(tmp_path / "aside")
    with pytest.raises(FileNotFoundError):
        log.write(b"one\n")
    (tmp_path / "log").mkdir()
    log.write(b"two\n")
    assert (tmp_path / "log" / "rm.log").read_text() == "two\n"


def test_two_writers_of_one_log_rotate_it_without_losing_a_line(tmp_path):
    path = tmp_path / "rm.log"

    def write_lines(name: str) -> None:
        log = LogFile(str(path), max_bytes=1_000, rotated_files=20)
        for n in range(300):
            log.write(b"%b %06d\n" % (name.encode(), n))

    writers = [threading.Thread(target=write_lines, args=(name,)) for name in ("a", "b")]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    lines = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert set(Counter(lines)) == {f"{name} {n:06}" for name in "ab" for n in range(300)}
    assert max(file.stat().st_size for file in tmp_path.iterdir()) <= 1_020
    assert len(list(tmp_path.iterdir())) >= 6


def test_the_target_of_a_symbolic_link_is_not_rotated(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "rm.log")
    log = LogFile(str(tmp_path / "link"), max_bytes=5)
    log.write(b"one\n")
    log.write(b"two\n")
    assert (tmp_path / "rm.log").read_text() == "one\ntwo\n"


def test_a_log_that_cannot_be_rotated_grows_and_its_lock_is_released(tmp_path):
    path = tmp_path / "rm.log"
    (tmp_path / "rm.log.1").mkdir()
    (tmp_path / "rm.log.2").touch()  # the folder rm.log.1 cannot be renamed to this file
    (tmp_path / "rm.log.3" / "full").mkdir(parents=True)
    for log in (LogFile(str(path), max_bytes=5), LogFile(str(path), max_bytes=5)):
        log.write(b"one\n")
        log.write(b"two\n")
    assert path.read_text() == "one\ntwo\none\ntwo\n"
    with path.open() as other:
        # This raises an error if the log is still locked.
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_pipe_that_other_programs_made_non_blocking_stays_non_blocking():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    fill(writer)
    stream = Stream(writer)
    assert stream.write(b"x") == 0
    os.read(reader, 1 << 20)
    assert stream.write(b"line\n") == 5
    assert not os.get_blocking(writer)
    os.close(reader)
    os.close(writer)


def fill(pipe: int) -> None:
    """Write until the pipe is full."""
    was_blocking = os.get_blocking(pipe)
    os.set_blocking(pipe, False)
    try:
        while True:
            os.write(pipe, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(pipe, was_blocking)


# --- nodes -------------------------------------------------------------------------------------


def works(node: NodeProcess) -> bool:
    return node.trigger("2", Prefer="wait=30").body["state"] == "succeeded"


@pytest.fixture
def node_with_full_pipe(make):
    """A node whose standard error is a full pipe, and the reading end of that pipe."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    fill(writer)
    node = make().launch_ready({"stdout": writer, "stderr": writer})
    os.close(writer)
    with os.fdopen(reader) as pipe:
        yield node, pipe


def test_a_node_works_while_nobody_reads_its_log_pipe(node_with_full_pipe):
    node, _ = node_with_full_pipe
    assert works(node)
    assert node.stop() == 0


def test_no_line_is_lost_in_a_pipe_that_is_read_late(node_with_full_pipe):
    node, pipe = node_with_full_pipe
    node.process.send_signal(signal.SIGTERM)
    lines = pipe.read().lstrip("x").splitlines()
    assert [line.split()[2] for line in lines] == ["rest_listening", "ready", "stopping", "stopped"]
    assert node.process.wait() == 0


def test_a_node_with_its_log_on_a_full_disk_works_and_prints_no_traceback(make):
    node = make()
    node.edit("comm", log__path="/dev/full")
    node.launch_ready({})
    assert works(node)
    assert node.stop() == 0
    assert node.log == ""
