"""Updates of runs: facts that the log has, and the history does not have yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Union

import msgspec

from fractal_rm.adapters.log.records import encode
from fractal_rm.adapters.log.timed import Ref
from fractal_rm.domain.flow import KeepSettings
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.engine.ports import ExistingRun, NewRun

KeyQuery = tuple[Union[str, None], str, str, int]  # key, run id, digest, retention_ms: see `NewRun`


def query_for(entry: NewRun) -> KeyQuery:
    """The query for the existing run that has the key or the id of an entry."""
    return entry.key, entry.run_id, entry.digest, entry.retention_ms


class RunUpdate(msgspec.Struct, gc=False):
    """The update of one run: its facts since the history was last updated.

    - ``facts``: each is a tuple of a time (milliseconds since 1970) and a fact, or the JSON of such
      a tuple. A third item refers to a blob (see `timed`).
    - ``refs``: the references to all blobs of these facts.
    - ``page``: the JSON of all facts, if the run has ended. Then ``facts`` is empty.
    - ``run``: the live object of an open run, if it has exactly these facts. Otherwise ``state``,
      ``reason`` and ``node`` are the state of the run after ``facts``.
    - ``settled_ms``: when the run ended; None while it is open.
    - ``ahead_ms``: the retention clock minus the wall clock when the run ended.
    - ``new``: the unchanging values of the run if it began in this update, else None.
    - ``duplicates``: the number of duplicates of its trigger.
    - ``flow``, ``cause`` and ``failed_step`` (a number): set if the run is in a state of
      `TROUBLE_STATES`.
    - ``keeping``: what the history keeps of its values, if the run has ended.
    """

    run_id: str
    facts: list[Any] = []
    state: State = State.NEW
    reason: str = ""
    node: str | None = None
    settled_ms: int | None = None
    ahead_ms: int = 0
    duplicates: int = 0
    new: RunStart | None = None
    run: Run | None = None
    page: bytes | None = None
    flow: str | None = None
    cause: str | None = None
    failed_step: int | None = None
    refs: tuple[Ref, ...] = ()
    keeping: KeepSettings | msgspec.UnsetType = msgspec.UNSET

    def copy_state_of(self, run: Run) -> None:
        """Copy the state of ``run``. The run must have exactly the facts of this update."""
        self.state, self.reason, self.node = run.state, run.reason, run.node
        self.keeping = run.flow.keeping
        if run.state in TROUBLE_STATES:
            self.flow, self.failed_step = run.flow.id or None, run.progress.failed_step
            self.cause = run.cause and run.cause.value

    def freeze(self) -> None:
        """Copy the state of the live run now, so that later facts do not change this update."""
        if self.run is not None:
            self.copy_state_of(self.run)
            self.run = None

    @property
    def current_state(self) -> State | None:
        """The state of the run; None: this update does not change it."""
        if self.run is not None:
            return self.run.state
        return None if self.state is State.NEW else self.state

    @property
    def has_facts(self) -> bool:
        """Whether the update has facts."""
        return self.page is not None or bool(self.facts)

    def body(self) -> bytes:
        """The JSON of all facts. Any thread may call this."""
        facts = self.facts  # before the page is looked at: `RunUpdates.end` first sets the page
        return encode(facts) if self.page is None else self.page


class RunStart(msgspec.Struct, frozen=True, gc=False):
    """The values of a new run that do not change; see `NewRun` and `Accepted` for the fields."""

    flow: str | None
    version: str
    source: str
    accepted_ms: int
    key: str | None
    digest: str
    key_until_ms: int
    parent: str | None = None
    replays: str | None = None
    actor: str | None = None


class RunUpdates:
    """The updates of many runs by run id: of ``open`` runs, in order, and of ``ended`` runs.

    ``flows`` are new flows by version. ``duplicates`` counts duplicates of triggers of runs that
    have no other update. ``after_end`` has, by run id, facts of runs that had ended before.
    """

    def __init__(self) -> None:
        self.open: dict[str, RunUpdate] = {}
        self.ended: dict[str, RunUpdate] = {}
        self.flows: dict[str, bytes] = {}
        self.duplicates: dict[str, int] = {}
        self.after_end: dict[str, list[Any]] = {}
        self.keys: dict[str, RunUpdate] = {}  # key -> the update of the new run

    def get_or_add(self, run_id: str) -> RunUpdate:
        """The update of an open run. Adds an empty update if there is none."""
        update = self.open.get(run_id)
        if update is None:
            update = self.open[run_id] = RunUpdate(run_id)
        return update

    def find(self, run_id: str) -> RunUpdate | None:
        """The update of a run; None: the run has no update."""
        return self.open.get(run_id) or self.ended.get(run_id)

    def begin(self, update: RunUpdate, beginning: RunStart) -> None:
        """Add a new run."""
        update.new = beginning
        updates = self.open if update.settled_ms is None else self.ended
        updates[update.run_id] = update
        if beginning.key is not None:
            self.keys[beginning.key] = update

    def add_facts(self, facts: Iterable[tuple[Run, Any]]) -> None:
        """Add facts of open runs. Each fact is given with its run, to which it was applied."""
        updates = self.open
        for run, timed in facts:
            update = updates.get(run.id)
            if update is None:
                update = updates[run.id] = RunUpdate(run.id)
            update.run = run
            update.facts.append(timed)

    def end(self, run_id: str, settled_ms: int, ahead_ms: int) -> None:
        """Mark an open run as ended. Call it after its last fact was added."""
        update = self.open[run_id]
        update.freeze()
        update.settled_ms, update.ahead_ms = settled_ms, ahead_ms
        self.ended[run_id] = update  # before it is removed: a thread that reads misses no run
        del self.open[run_id]
        # Encode the facts here, so that this thread frees them: it has created them.
        update.page, update.facts = encode(update.facts), []

    def copy(self) -> RunUpdates:
        """A copy for a thread that reads. A run that is ending just now may be in both parts."""
        copied = RunUpdates()
        copied.open, copied.ended = self.open.copy(), self.ended.copy()  # in this order: see `end`
        copied.flows, copied.after_end = self.flows.copy(), self.after_end.copy()
        return copied

    def add_after_end(self, run_id: str, timed: Any) -> None:
        """Add a fact of a run that has ended. The state of the run does not change."""
        self.after_end.setdefault(run_id, []).append(timed)

    def add_duplicates(self, run_id: str, times: int = 1) -> None:
        """Count duplicates of the trigger of a run."""
        update = self.find(run_id)
        if update is not None:
            update.duplicates += times
        else:
            self.duplicates[run_id] = self.duplicates.get(run_id, 0) + times

    def take_ended(self) -> RunUpdates:
        """Remove and return everything except the updates of open runs.

        Later facts do not change the returned updates.
        """
        removed = RunUpdates()
        removed.ended, self.ended = self.ended, {}
        removed.flows, self.flows = self.flows, {}
        removed.duplicates, self.duplicates = self.duplicates, {}
        removed.after_end, self.after_end = self.after_end, {}
        return removed

    def add_new(self, updates: RunUpdates) -> None:
        """Add the new runs of ``updates``, with their keys and flows."""
        self.open.update(updates.open)
        self.ended.update(updates.ended)
        self.keys.update(updates.keys)
        self.flows.update(updates.flows)

    def existing_for(self, query: KeyQuery) -> ExistingRun | None:
        """The run with the key or the id of a query; None: there is no such run."""
        key, run_id, digest, retention_ms = query
        with_same_key = self.with_key(key, retention_ms) if key is not None else None
        if with_same_key is not None:
            return with_same_key
        update = self.find(run_id)
        if update is None or update.new is None:
            return None
        return ExistingRun(run_id, digest, update.current_state or update.state)

    def with_key(self, key: str, retention_ms: int) -> ExistingRun | None:
        """The run with this key; None: there is no such run, or the key has expired."""
        update = self.keys.get(key)
        if update is None or update.new is None or update.new.key_until_ms <= retention_ms:
            return None
        return ExistingRun(update.run_id, update.new.digest, update.current_state or update.state)

    @property
    def can_take_ended(self) -> bool:
        """Whether `take_ended` would return any update."""
        return bool(self.ended or self.duplicates or self.flows or self.after_end)

    @property
    def new(self) -> list[RunUpdate]:
        """The new runs: ended runs in order of id, then open runs.

        The history updates its index of ids fastest in this order.
        """
        ended_runs = (self.ended[run_id] for run_id in sorted(self.ended))
        return [
            update for update in chain(ended_runs, self.open.values()) if update.new is not None
        ]

    @property
    def older(self) -> list[RunUpdate]:
        """The updates of runs that the history already has."""
        return [update for update in self if update.new is None]

    def __iter__(self) -> Iterator[RunUpdate]:
        return chain(self.ended.values(), self.open.values())

    def __bool__(self) -> bool:
        return bool(self.open or self.can_take_ended)
