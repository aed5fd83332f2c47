"""The log: what disturbs it disturbs nothing else, and is said in it."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import threading
from collections import Counter

import pytest

from fractal_rm.adapters.telemetry import line_writer, outlets
from fractal_rm.adapters.telemetry.line_writer import LineWriter
from fractal_rm.adapters.telemetry.outlets import LogFile, Stream
from nodes import NodeProcess, wait_until


class Shaky:
    """An outlet that fails, or keeps who writes waiting, until it is told not to."""

    def __init__(self) -> None:
        self.text = b""
        self.fails = False
        self.tries = 0
        self.free = threading.Event()
        self.free.set()

    def write(self, line: bytes) -> int:
        self.tries += 1
        if self.fails:
            raise OSError("no space left on device")
        self.free.wait()
        some = line[:5]  # as a pipe may: the rest comes next
        self.text += some
        return len(some)


@pytest.fixture
def shaky(monkeypatch):
    monkeypatch.setattr(line_writer, "RETRY_S", 0.01)
    monkeypatch.setattr(line_writer, "HELD_BYTES", 100)
    outlet = Shaky()
    yield outlet
    outlet.fails = False
    outlet.free.set()


def write(writer: LineWriter, *lines: str) -> None:
    for line in lines:
        writer.handle(logging.makeLogRecord({"msg": line}))


@pytest.mark.parametrize("how", ["fails", "waits"])
def test_what_does_not_fit_while_a_log_cannot_be_written_is_counted_in_its_place(shaky, how):
    writer = LineWriter(shaky)
    write(writer, "before")
    writer.flush()
    shaky.fails = how == "fails"
    shaky.free.clear()
    write(writer, *(f"line {n:03}" for n in range(20)))  # nine bytes each, with its end
    shaky.fails = False
    shaky.free.set()
    wait_until(lambda: b"count=9" in shaky.text)
    write(writer, "after")
    writer.flush()
    lines = shaky.text.decode().splitlines()
    assert lines == [
        "before", *(f"line {n:03}" for n in range(11)), "log_lines_lost count=9", "after"
    ]  # fmt: skip
    writer.close()


def test_what_is_written_at_the_end_of_a_process_is_not_waited_for_while_it_fails(shaky):
    shaky.fails = True
    writer = LineWriter(shaky)
    write(writer, "never")
    wait_until(lambda: shaky.tries)
    writer.flush()
    writer.close()
    assert shaky.text == b""


def test_a_log_that_was_moved_away_goes_on_in_a_new_file(tmp_path):
    log = LogFile(str(tmp_path / "rm.log"))
    log.write(b"one\n")
    (tmp_path / "rm.log").rename(tmp_path / "rm.log.old")
    log.write(b"two\n")
    assert (tmp_path / "rm.log.old").read_text() == "one\n"
    assert (tmp_path / "rm.log").read_text() == "two\n"


def test_a_log_whose_folder_is_gone_fails_until_it_is_back(tmp_path):
    (tmp_path / "log").mkdir()
    log = LogFile(str(tmp_path / "log" / "rm.log"))
    (tmp_path / "log").rename(tmp_path / "aside")
    with pytest.raises(FileNotFoundError):
        log.write(b"one\n")
    (tmp_path / "log").mkdir()
    log.write(b"two\n")
    assert (tmp_path / "log" / "rm.log").read_text() == "two\n"


def test_two_processes_that_share_a_log_rotate_it_without_losing_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(outlets, "FILE_BYTES", 1_000)
    monkeypatch.setattr(outlets, "FILES_KEPT", 20)
    path = tmp_path / "rm.log"

    def fill(who: str) -> None:
        log = LogFile(str(path))
        for n in range(300):
            log.write(b"%b %06d\n" % (who.encode(), n))

    writers = [threading.Thread(target=fill, args=(who,)) for who in ("a", "b")]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    lines = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert set(Counter(lines)) == {f"{who} {n:06}" for who in "ab" for n in range(300)}
    assert max(file.stat().st_size for file in tmp_path.iterdir()) <= 1_020
    assert len(list(tmp_path.iterdir())) >= 6


def test_what_a_link_leads_to_is_not_rotated(tmp_path, monkeypatch):
    monkeypatch.setattr(outlets, "FILE_BYTES", 5)
    (tmp_path / "link").symlink_to(tmp_path / "rm.log")
    log = LogFile(str(tmp_path / "link"))
    log.write(b"one\n")
    log.write(b"two\n")
    assert (tmp_path / "rm.log").read_text() == "one\ntwo\n"


def test_a_log_that_cannot_be_rotated_grows_and_keeps_nobody_else_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(outlets, "FILE_BYTES", 5)
    path = tmp_path / "rm.log"
    (tmp_path / "rm.log.1").mkdir()
    (tmp_path / "rm.log.2").touch()  # so that the folder cannot take its name
    (tmp_path / "rm.log.3" / "full").mkdir(parents=True)
    for log in (LogFile(str(path)), LogFile(str(path))):
        log.write(b"one\n")
        log.write(b"two\n")
    assert path.read_text() == "one\ntwo\none\ntwo\n"
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it is not let go of


def test_a_pipe_that_others_made_non_blocking_is_waited_for_and_left_so():
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
    """Write until nothing more goes in."""
    before = os.get_blocking(pipe)
    os.set_blocking(pipe, False)
    try:
        while True:
            os.write(pipe, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(pipe, before)


# --- whole nodes -------------------------------------------------------------------------------


def works(node: NodeProcess) -> bool:
    return node.trigger("2", Prefer="wait=30")[2]["state"] == "succeeded"


@pytest.fixture
def unread(make):
    """A node whose standard error is a pipe that is full, and the end of it that may be read."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    fill(writer)
    node = make().launch_ready({"stdout": writer, "stderr": writer})
    os.close(writer)
    with os.fdopen(reader) as pipe:
        yield node, pipe


def test_a_pipe_that_nobody_reads_stops_nothing(unread):
    node, _ = unread
    assert works(node)
    assert node.stop() == 0


def test_a_pipe_that_is_read_late_gives_every_line(unread):
    node, pipe = unread
    node.process.send_signal(signal.SIGTERM)
    lines = pipe.read().lstrip("x").splitlines()
    assert [line.split()[2] for line in lines] == ["rest_listening", "ready", "stopping", "stopped"]
    assert node.process.wait() == 0


def test_a_log_on_a_full_disk_stops_nothing_and_prints_no_traceback(make):
    node = make()
    node.edit("comm", log__path="/dev/full")
    node.launch_ready({})
    assert works(node)
    assert node.stop() == 0
    assert node.log == ""
