"""Writes log lines in a separate thread.

The event loop only appends lines to a queue. So a full disk, a network file system that does not
answer, or a pipe that nobody reads blocks only the thread. The queue is bounded. Lines that do not
fit are dropped and counted. When writing works again, one line reports how many were dropped.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

from fractal_rm.adapters.telemetry.outlets import Outlet

MAX_QUEUED_BYTES = 1024 * 1024
RETRY_S = 1.0
FLUSH_LIMIT_S = 1.0  # how long a slow reader can delay the end of the process


class LineWriter(logging.Handler):
    """Formats lines in the thread of the caller. Another thread writes them in order."""

    def __init__(
        self,
        outlet: Outlet,
        *,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
        retry_s: float = RETRY_S,
    ) -> None:
        super().__init__()
        self._outlet = outlet
        self._max_queued_bytes = max_queued_bytes
        self._retry_s = retry_s
        self._lines: deque[bytes] = deque()  # a part of the first line may be written already
        self._queued_bytes = 0
        self._lost = 0
        self._failing = self._closed = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line to the queue, or count it as lost."""
        line = self._line(record)
        with self._changed:
            self._report_lost()
            if self._lost or not self._has_room(line):
                self._lost += 1
            else:
                self._append(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all lines are written or writing fails, but at most a second."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines or self._failing, FLUSH_LIMIT_S)

    def close(self) -> None:
        """Close the writer. The thread ends when the queue is empty, or at the next failure."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001 - logging must not fail for its caller
            text = f"cannot format a line of {record.name}: {error!r}"
        return text.encode("utf-8", "backslashreplace") + b"\n"

    # --- called while the condition is locked -------------------------------------------------

    def _has_room(self, line: bytes) -> bool:
        return self._queued_bytes + len(line) <= self._max_queued_bytes

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._queued_bytes += len(line)

    def _report_lost(self) -> None:
        if self._lost:
            record = logging.makeLogRecord(
                {"name": "fractal_rm", "levelno": logging.WARNING, "levelname": "WARNING",
                 "msg": f"log_lines_lost count={self._lost}"}
            )  # fmt: skip
            line = self._line(record)
            if self._has_room(line):
                self._append(line)
                self._lost = 0

    # --- called by the thread -----------------------------------------------------------------

    def _next(self) -> bytes | None:
        """Wait for the next line. Returns None if the writer is closed and no line is left."""
        with self._changed:
            if not self._lines:
                self._report_lost()
            self._changed.wait_for(lambda: self._lines or self._closed)
            return self._lines[0] if self._lines else None

    def _remove(self, size: int) -> None:
        """Remove the written bytes from the queue."""
        with self._changed:
            unwritten = self._lines.popleft()[size:]
            if unwritten:
                self._lines.appendleft(unwritten)
            self._queued_bytes -= size
            self._failing = False
            self._changed.notify_all()

    def _wait_to_retry(self) -> None:
        with self._changed:
            self._failing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed, self._retry_s)

    def _run(self) -> None:
        while (line := self._next()) is not None:
            has_written = self._write(line)
            if not has_written and self._closed:
                return

    def _write(self, line: bytes) -> bool:
        try:
            size = self._outlet.write(line)
        except OSError:  # for example: the disk is full, or the reader has closed the pipe
            self._wait_to_retry()
            return False
        self._remove(size)
        return True
