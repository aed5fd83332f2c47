"""Updates of runs that the log has and the history does not have yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import msgspec

from fractal_rm.adapters.log.records import encode
from fractal_rm.adapters.log.timed import Ref
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.engine.ports import ExistingRun, NewRun


class RunUpdate(msgspec.Struct, gc=False):
    """The update of one run: its facts since the history was last updated.

    ``facts`` are tuples of a time, milliseconds since 1970, and a fact, or the JSON of such a
    tuple; a third item refers to a blob (see `timed`), and ``refs`` are all these blobs. When the
    run has ended, ``page`` is the JSON of all facts. While it is open and its live object has the
    same facts, ``run`` is that object; else ``state``, ``reason`` and ``node`` are those after
    ``facts``. ``settled_ms`` is None while it is open. ``new`` is set if the run began in this
    update. ``again`` counts duplicates of its trigger. ``flow``, ``cause`` and ``failed_step`` (a
    number) are set if it ended in trouble.
    """

    run_id: str
    facts: list[Any] = []
    state: State = State.NEW
    reason: str = ""
    node: str | None = None
    settled_ms: int | None = None
    ahead_ms: int = 0
    again: int = 0
    new: RunStart | None = None
    run: Run | None = None
    page: bytes | None = None
    flow: str | None = None
    cause: str | None = None
    failed_step: int | None = None
    refs: tuple[Ref, ...] = ()

    def copy_state_of(self, run: Run) -> None:
        """Copy the state of a run that has exactly these facts."""
        self.state, self.reason, self.node = run.state, run.reason, run.node
        if run.state in TROUBLE_STATES:
            self.flow, self.failed_step = run.flow.id or None, run.failed_step
            self.cause = run.cause and run.cause.value

    def freeze(self) -> None:
        """Copy the state of its run now, so that later facts do not change it."""
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
        """All facts, as JSON."""
        return encode(self.facts) if self.page is None else self.page


class RunStart(msgspec.Struct, frozen=True, gc=False):
    """What is known of a new run from its entry: see `NewRun`."""

    flow: str | None
    version: str
    source: str
    accepted_ms: int
    key: str | None
    digest: str
    key_until_ms: int
    parent: str | None = None


class RunUpdates:
    """The updates by run id: of ``open`` runs, in order, and of ``ended`` ones. Flows by version.

    ``again`` counts duplicates of triggers of runs without another update.
    """

    def __init__(self) -> None:
        self.open: dict[str, RunUpdate] = {}
        self.ended: dict[str, RunUpdate] = {}
        self.flows: dict[str, bytes] = {}
        self.again: dict[str, int] = {}
        self.keys: dict[str, RunUpdate] = {}  # of new runs

    def of(self, run_id: str) -> RunUpdate:
        """The update of an open run, which is made if there is none."""
        story = self.open.get(run_id)
        if story is None:
            story = self.open[run_id] = RunUpdate(run_id)
        return story

    def find(self, run_id: str) -> RunUpdate | None:
        """The update of a run; None: there is none."""
        return self.open.get(run_id) or self.ended.get(run_id)

    def begin(self, story: RunUpdate, beginning: RunStart) -> None:
        """Add a new run."""
        story.new = beginning
        stories = self.open if story.settled_ms is None else self.ended
        stories[story.run_id] = story
        if beginning.key is not None:
            self.keys[beginning.key] = story

    def add_facts(self, facts: Iterable[tuple[Run, Any]]) -> None:
        """Add facts that were already applied to open runs, each with its run."""
        stories = self.open
        for run, timed in facts:
            story = stories.get(run.id)
            if story is None:
                story = stories[run.id] = RunUpdate(run.id)
            story.run = run
            story.facts.append(timed)

    def end(self, run_id: str, settled_ms: int, ahead_ms: int) -> None:
        """Mark an open run as ended: its last fact was added."""
        story = self.ended[run_id] = self.open.pop(run_id)
        story.freeze()
        story.settled_ms, story.ahead_ms = settled_ms, ahead_ms
        story.page, story.facts = encode(story.facts), []  # freed on the thread that made them

    def repeat(self, run_id: str, times: int = 1) -> None:
        """Count duplicates of the trigger of a run."""
        story = self.find(run_id)
        if story is not None:
            story.again += times
        else:
            self.again[run_id] = self.again.get(run_id, 0) + times

    def take_ended(self) -> RunUpdates:
        """Remove and return all but the updates of open runs: later facts do not change these."""
        leaving = RunUpdates()
        leaving.ended, self.ended = self.ended, {}
        leaving.flows, self.flows = self.flows, {}
        leaving.again, self.again = self.again, {}
        return leaving

    def take_over(self, begun: RunUpdates) -> None:
        """Add new runs, with their keys and flows."""
        self.open.update(begun.open)
        self.ended.update(begun.ended)
        self.keys.update(begun.keys)
        self.flows.update(begun.flows)

    def prior(self, entry: NewRun) -> ExistingRun | None:
        """The run with the key of an entry, or else with its id."""
        found = self.with_key(entry.key, entry.retention_ms) if entry.key is not None else None
        if found is not None:
            return found
        story = self.find(entry.run_id)
        if story is None or story.new is None:
            return None
        return ExistingRun(entry.run_id, entry.digest, story.current_state or story.state)

    def with_key(self, key: str, retention_ms: int) -> ExistingRun | None:
        """The run with a key that has not expired."""
        story = self.keys.get(key)
        if story is None or story.new is None or story.new.key_until_ms <= retention_ms:
            return None
        return ExistingRun(story.run_id, story.new.digest, story.current_state or story.state)

    @property
    def has_any_but_open(self) -> bool:
        """Whether `take_ended` would return any update."""
        return bool(self.ended or self.again or self.flows)

    @property
    def new(self) -> list[RunUpdate]:
        """The new runs: ended ones by id, then open ones.

        In this order an index of ids is updated fastest.
        """
        ended = (self.ended[run_id] for run_id in sorted(self.ended))
        return [story for story in chain(ended, self.open.values()) if story.new is not None]

    @property
    def older(self) -> list[RunUpdate]:
        """The runs that the history has already."""
        return [story for story in self if story.new is None]

    def __iter__(self) -> Iterator[RunUpdate]:
        return chain(self.ended.values(), self.open.values())

    def __bool__(self) -> bool:
        return bool(self.open or self.ended or self.flows or self.again)


class Recent:
    """Updates that the history does not have yet: ``current``, and those that are being copied."""

    def __init__(self) -> None:
        self.current = RunUpdates()
        self._copying = RunUpdates()

    def take_all(self) -> RunUpdates:
        """Begin to copy all updates so far; returns them."""
        self._copying, self.current = self.current, RunUpdates()
        for story in self._copying.open.values():
            story.freeze()
        return self._copying

    def take_ended(self) -> RunUpdates:
        """Begin to copy the updates so far of runs that have ended; returns them."""
        self._copying = self.current.take_ended()
        return self._copying

    def mark_projected(self) -> None:
        """The history has the updates that were being copied."""
        keys = self.current.keys
        for story in self._copying.ended.values():
            key = story.new and story.new.key
            if key is not None and keys.get(key) is story:
                del keys[key]
        self._copying = RunUpdates()

    def prior(self, entry: NewRun) -> ExistingRun | None:
        """The run with the key of an entry, or else with its id."""
        found = self.current.prior(entry) or self._copying.prior(entry)
        return found and self.with_current_state(found)

    def with_key(self, key: str, retention_ms: int) -> ExistingRun | None:
        """The run with a key that has not expired."""
        found = self.current.with_key(key, retention_ms) or self._copying.with_key(
            key, retention_ms
        )
        return found and self.with_current_state(found)

    def has(self, run_id: str) -> bool:
        """Whether a run began in these updates."""
        stories = (self.current.find(run_id), self._copying.find(run_id))
        return any(story is not None and story.new is not None for story in stories)

    def with_current_state(self, prior: ExistingRun) -> ExistingRun:
        """The run with its latest state: where it was found, its end may be missing."""
        for story in (self.current.find(prior.run_id), self._copying.find(prior.run_id)):
            state = story and story.current_state
            if state is not None:
                return msgspec.structs.replace(prior, state=state)
        return prior
