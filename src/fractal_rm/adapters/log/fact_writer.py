"""Writes the facts that no call waits for, at the end of the event loop turn.

A killed process loses none of these facts. A power loss loses at most the facts of the last second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fractal_rm.adapters.log.batch import FactBatch
from fractal_rm.adapters.log.output import Output
from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.journal_errors import JournalBlocked
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Counting, WrittenFact

MAX_UNSYNCED_S = 1.0


class FactWriter:
    """Collects facts during an event loop turn, and writes them together.

    ``request_sync`` makes the writer begin a group, perhaps an empty one, and sync the log.
    ``on_lost`` is called with an error after which the content of the disk is unknown.
    """

    def __init__(
        self,
        output: Output,
        request_sync: Callable[[], None],
        on_lost: Callable[[Exception], None],
        counting: Counting,
    ) -> None:
        self._counting = counting
        self._output = output
        self._request_sync = request_sync
        self._on_lost = on_lost
        self._appended: list[WrittenFact] = []  # not written yet
        self._flush: asyncio.Handle | None = None
        self._sync_timer: asyncio.TimerHandle | None = None
        self._killed = False
        self._loop: asyncio.AbstractEventLoop

    def begin(self) -> None:
        """Use the running event loop."""
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        """The number of facts that are not written yet."""
        return len(self._appended)

    def append(self, run: Run, fact: AnyFact, at_ms: int) -> None:
        """Write a fact at the latest at the end of this event loop turn; see the port."""
        self._appended.append((run, (at_ms, fact)))
        if self._flush is None:
            self._flush = self._loop.call_soon(self.flush)

    def flush(self) -> bool:
        """Write the appended facts, without a sync. Returns whether all of them are written."""
        self._flush = None
        if not self._appended:
            return True
        if self._output.blocked is not None or self._killed:
            return False
        try:
            self.write()
        except JournalBlocked as error:
            self._output.blocked = error
            self._request_sync()
        except Exception as error:  # noqa: BLE001 - any error of the disk
            self._on_lost(error)
        else:
            if self._sync_timer is None:
                self._sync_timer = self._loop.call_later(MAX_UNSYNCED_S, self._request_sync)
        return not self._appended

    def write(self) -> None:
        """Write the appended facts. Raises JournalBlocked if none was written."""
        if self._appended:
            written = self._appended
            self._output.write(FactBatch(written, self._output.retention_ms))
            self._appended = []
            for count in self._counting.facts:
                count(written)

    def sync_begins(self) -> None:
        """Cancel the requested sync: the sync that begins now covers all written facts."""
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_timer = None

    def kill(self) -> None:
        """Write nothing more, not even the facts of this event loop turn."""
        self._killed = True
        self.sync_begins()
