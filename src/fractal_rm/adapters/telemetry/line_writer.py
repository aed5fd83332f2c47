"""Lines of the log, on their way to where they are written.

The event loop hands a line over and goes on: a disk that is full, a share that does not answer or
a pipe that nobody reads keeps a thread waiting, and nothing else. What waits is bounded. Lines that
do not fit are counted, and when it works again that is said in their place.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

from fractal_rm.adapters.telemetry.outlets import Outlet

HELD_BYTES = 1024 * 1024
RETRY_S = 1.0
FLUSH_LIMIT_S = 1.0  # at the end of the process, which a reader must not hold up


class LineWriter(logging.Handler):
    """Formats on the caller's thread, writes on its own, in order."""

    def __init__(self, outlet: Outlet) -> None:
        super().__init__()
        self._outlet = outlet
        self._lines: deque[bytes] = deque()  # the first may be written in part
        self._held_bytes = 0
        self._lost = 0
        self._failing = self._closed = False
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line, or count it."""
        line = self._line(record)
        with self._changed:
            self._say_lost()
            if self._lost or not self._has_room(line):
                self._lost += 1
            else:
                self._hold(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is written, unless that fails or takes long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines or self._failing, FLUSH_LIMIT_S)

    def close(self) -> None:
        """Write what is there, and no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001 - who logs must not fail by it
            text = f"a line of {record.name} that cannot be formatted: {error!r}"
        return text.encode("utf-8", "backslashreplace") + b"\n"

    # --- under the condition ------------------------------------------------------------------

    def _has_room(self, line: bytes) -> bool:
        return self._held_bytes + len(line) <= HELD_BYTES

    def _hold(self, line: bytes) -> None:
        self._lines.append(line)
        self._held_bytes += len(line)

    def _say_lost(self) -> None:
        if self._lost:
            said = logging.makeLogRecord(
                {"name": "fractal_rm", "levelno": logging.WARNING, "levelname": "WARNING",
                 "msg": f"log_lines_lost count={self._lost}"}
            )  # fmt: skip
            line = self._line(said)
            if self._has_room(line):
                self._hold(line)
                self._lost = 0

    def _next(self) -> bytes | None:
        """What is to be written now; None: nothing comes any more."""
        with self._changed:
            if not self._lines:
                self._say_lost()
            self._changed.wait_for(lambda: self._lines or self._closed)
            return self._lines[0] if self._lines else None

    def _wrote(self, size: int) -> None:
        with self._changed:
            rest = self._lines.popleft()[size:]
            if rest:
                self._lines.appendleft(rest)
            self._held_bytes -= size
            self._failing = False
            self._changed.notify_all()

    def _wait_to_retry(self) -> None:
        with self._changed:
            self._failing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed, RETRY_S)

    # --- on its thread ------------------------------------------------------------------------

    def _work(self) -> None:
        while (line := self._next()) is not None and (self._write(line) or not self._closed):
            pass

    def _write(self, line: bytes) -> bool:
        try:
            size = self._outlet.write(line)
        except OSError:  # whatever it is: the disk, the folder, a reader that has gone
            self._wait_to_retry()
            return False
        self._wrote(size)
        return True
