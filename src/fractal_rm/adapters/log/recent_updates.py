"""The updates that the history does not have yet: those that are copied now, and newer ones."""

from __future__ import annotations

import threading
from typing import NamedTuple

import msgspec

from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.log.run_updates import KeyQuery, RunUpdates
from fractal_rm.engine.ports import ExistingRun

_NOWHERE = Projected(-1, -1)


class Unprojected(NamedTuple):
    """The updates that a history lacks, if it has the log up to ``since``.

    It lacks only those of ``current`` if it has the log up to ``until``: the others are being
    copied.
    """

    since: Projected
    until: Projected
    copying: RunUpdates
    current: RunUpdates


class RecentUpdates:
    """All updates that the history does not have yet.

    They are the ``current`` updates, and the updates that are now being copied to the history.
    Other threads may call `unprojected`.
    """

    def __init__(self) -> None:
        self._taking = threading.Lock()
        self._state = Unprojected(_NOWHERE, _NOWHERE, RunUpdates(), RunUpdates())
        self.current = self._state.current

    def begin(self, projected: Projected) -> None:
        """The history has all of the log up to here, and there are no updates yet."""
        self._state = self._state._replace(since=projected, until=projected)

    def take_all(self, until: Projected) -> RunUpdates:
        """Take all current updates in order to copy them; the history then has all ``until``."""
        with self._taking:
            taken, self.current = self.current, RunUpdates()
            self._state = Unprojected(self._state.since, until, taken, self.current)
        for update in taken.open.values():
            update.freeze()
        return taken

    def take_ended(self, until: Projected) -> RunUpdates:
        """Take the current updates of ended runs in order to copy them, as `take_all`."""
        with self._taking:
            taken = self.current.take_ended()
            self._state = Unprojected(self._state.since, until, taken, self.current)
        return taken

    def mark_projected(self) -> None:
        """Forget the updates that were being copied, as the history has them now."""
        keys, copied = self.current.keys, self._state.copying
        for update in copied.ended.values():
            key = update.new and update.new.key
            if key is not None and keys.get(key) is update:
                del keys[key]
        until = self._state.until
        self._state = Unprojected(until, until, RunUpdates(), self.current)

    def unprojected(self) -> Unprojected:
        """The updates, as they are now, for a thread that reads."""
        with self._taking:
            state = self._state
            return state._replace(current=state.current.copy())

    def existing_for(self, query: KeyQuery) -> ExistingRun | None:
        """The run with the key or the id of a query; None: there is no such run."""
        existing = self.current.existing_for(query) or self._state.copying.existing_for(query)
        return existing and self.with_current_state(existing)

    def has(self, run_id: str) -> bool:
        """Whether a run began in these updates."""
        updates = (self.current.find(run_id), self._state.copying.find(run_id))
        return any(update is not None and update.new is not None for update in updates)

    def with_current_state(self, existing: ExistingRun) -> ExistingRun:
        """The run with its latest state: the history may not have its end yet."""
        run_id = existing.run_id
        for update in (self.current.find(run_id), self._state.copying.find(run_id)):
            state = update and update.current_state
            if state is not None:
                return msgspec.structs.replace(existing, state=state)
        return existing
