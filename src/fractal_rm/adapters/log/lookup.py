"""Finds the existing runs that have the key or the id of a call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fractal_rm.adapters.log.group import Group
from fractal_rm.adapters.log.history import History, KeyQuery
from fractal_rm.adapters.log.others import OtherJournals
from fractal_rm.adapters.log.recent_updates import RecentUpdates
from fractal_rm.adapters.log.run_updates import query_for
from fractal_rm.adapters.log.threads import Worker
from fractal_rm.engine.ports import ExistingRun


class Lookup:
    """Searches the recent updates, then the history, then the other journals."""

    def __init__(
        self, recent: RecentUpdates, history: History, others: OtherJournals, thread: Worker
    ) -> None:
        self._recent = recent
        self._history = history
        self._others = others
        self._thread = thread

    async def existing(
        self, group: Group
    ) -> tuple[dict[int, ExistingRun], list[ExistingRun | None]]:
        """The existing runs for the calls of a group.

        Returns two collections: a dict from the index of an entry to its existing run, and a list
        with the run (or None) for each of ``group.finds``. Entries without a key are not searched.
        """
        with_key = [
            (at, entry) for at, (entry, _) in enumerate(group.entries) if entry.key is not None
        ]
        if not with_key and not group.finds:
            return {}, []
        recent = self._recent
        # `queries` and `runs` have the entries with a key first, then the finds.
        queries = [query_for(entry) for _, entry in with_key]
        queries += [query for query, _ in group.finds]
        runs = [recent.existing_for(query) for query in queries]
        missing = [at for at, existing in enumerate(runs) if existing is None]
        if missing:
            searching = partial(self._search, [queries[at] for at in missing])
            for at, existing in zip(missing, await self._thread.run(searching), strict=True):
                runs[at] = existing and recent.with_current_state(existing)
        runs_of_entries, runs_of_finds = runs[: len(with_key)], runs[len(with_key) :]
        existing_runs = {
            at: existing
            for (at, _), existing in zip(with_key, runs_of_entries, strict=True)
            if existing is not None
        }
        return existing_runs, runs_of_finds

    def _search(self, queries: Sequence[KeyQuery]) -> list[ExistingRun | None]:
        """Search the history, then the other journals of the folder. Blocks."""
        runs = self._history.find(queries)
        missing = [at for at, existing in enumerate(runs) if existing is None]
        if missing:
            others = self._others.find([queries[at] for at in missing])
            for at, existing in zip(missing, others, strict=True):
                runs[at] = existing
        return runs
