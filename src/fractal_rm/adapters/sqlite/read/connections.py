"""Keeps the journals of a state folder open for questions, and lets one question run at a time."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from fractal_rm.adapters.log.recent_updates import Unprojected
from fractal_rm.adapters.sqlite.read.connection import JournalConnection, Updates
from fractal_rm.adapters.sqlite.read.snapshot import journals_in
from fractal_rm.domain.journal_errors import JournalDamaged

KEPT_S = 1.0


class Connections:
    """The connections to the journals of a folder. Any thread may ask; others wait meanwhile.

    ``updates``: for each journal that this process writes, a function that returns what the history
    lacks, or None if the journal is not open.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.updates: dict[Path, Updates] = {}
        self._lock = threading.Lock()
        self._ending: threading.Timer | None = None  # ends the views that are kept
        self._open: dict[Path, JournalConnection] = {}

    @contextmanager
    def question(
        self, *, fresh: bool = False
    ) -> Generator[tuple[list[JournalConnection], list[str]]]:
        """Yield a connection to each journal, in its state of one moment, and a list of damage.

        A journal that is damaged is left out, and the damage is in the list. When the question has
        ended, the list also has the damage that the connections have found. Raises JournalError if
        a journal cannot be read for another reason.

        While a busy node lacks many runs in its history, questions within `KEPT_S` see the same
        moment, unless they must be ``fresh``.
        """
        damage: list[str] = []
        with self._lock:
            self._close_others(journals_in(self._folder))
            with ExitStack() as questions:
                connections: list[JournalConnection] = []
                for path in sorted(self._paths):
                    try:
                        connection = self._connection(path)
                        questions.enter_context(connection.question(fresh=fresh))
                    except JournalDamaged as error:  # noqa: PERF203 - the others are read
                        damage.append(f"{path.stem}: {error}")
                    else:
                        connections.append(connection)
                yield connections, damage
            if self._ending is None and any(each.has_view for each in connections):
                self._ending = threading.Timer(KEPT_S, self._end_views)
                self._ending.daemon = True
                self._ending.start()
            for connection in connections:
                found = dict.fromkeys(connection.damage)
                damage += (f"{connection.path.stem}: {each}" for each in found)

    def _end_views(self) -> None:
        with self._lock:
            self._ending = None
            for connection in self._open.values():
                connection.end_view()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            if self._ending is not None:
                self._ending.cancel()
                self._ending = None
            self._close_others([])

    def _close_others(self, paths: list[Path]) -> None:
        self._paths = paths
        for path in self._open.keys() - set(paths):
            self._open.pop(path).close()

    def _updates_of(self, path: Path) -> Unprojected | None:
        updates = self.updates.get(path)
        return None if updates is None else updates()

    def _connection(self, path: Path) -> JournalConnection:
        connection = self._open.get(path)
        if connection is not None and not connection.is_current():
            del self._open[path]
            connection.close()
            connection = None
        if connection is None:
            connection = self._open[path] = JournalConnection(path, partial(self._updates_of, path))
        return connection
