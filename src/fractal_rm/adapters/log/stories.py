"""What the log holds and the history does not yet, run by run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import msgspec

from fractal_rm.adapters.log.records import encode
from fractal_rm.adapters.log.timed import Ref
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import TROUBLE, State
from fractal_rm.engine.ports import Entry, Prior


class Story(msgspec.Struct, gc=False):
    """What a run is told in the log since the history was last brought up to it.

    ``facts`` are pairs of a moment, milliseconds since 1970, and a fact, or the JSON of such a
    pair; those that refer to blobs are three (see `timed`), and ``refs`` are these blobs. When it
    has ended, ``page`` is the JSON of them all. ``run`` is the run itself, as long as it is open
    and each of its facts is in here; else ``state``, ``reason`` and ``node`` are how it stands
    after ``facts``. ``settled_ms`` is None while it has no end. ``new`` holds what only a run has
    that began in here. ``again``: so often its trigger came again. ``flow``, ``cause`` and
    ``failed_step``, a number, are known of a run that ended in trouble.
    """

    run_id: str
    facts: list[Any] = []
    state: State = State.NEW
    reason: str = ""
    node: str | None = None
    settled_ms: int | None = None
    ahead_ms: int = 0
    again: int = 0
    new: Beginning | None = None
    run: Run | None = None
    page: bytes | None = None
    flow: str | None = None
    cause: str | None = None
    failed_step: int | None = None
    refs: tuple[Ref, ...] = ()

    def stand_as(self, run: Run) -> None:
        """Let it stand as a run does now, of which each fact is in here."""
        self.state, self.reason, self.node = run.state, run.reason, run.node
        if run.state in TROUBLE:
            self.flow, self.failed_step = run.flow.id or None, run.failed_step
            self.cause = run.cause and run.cause.value

    def stand_still(self) -> None:
        """Let it stand as its run does now, whatever comes of that."""
        if self.run is not None:
            self.stand_as(self.run)
            self.run = None

    @property
    def stands(self) -> State | None:
        """How the run stands; None: nothing is told of that in here."""
        if self.run is not None:
            return self.run.state
        return None if self.state is State.NEW else self.state

    @property
    def is_told(self) -> bool:
        """Whether anything has happened to it in here."""
        return self.page is not None or bool(self.facts)

    def body(self) -> bytes:
        """All that is told, as JSON."""
        return encode(self.facts) if self.page is None else self.page


class Beginning(msgspec.Struct, frozen=True, gc=False):
    """Of a run that the history does not have: see `Entry`."""

    flow: str | None
    version: str
    source: str
    accepted_ms: int
    key: str | None
    digest: str
    key_until_ms: int
    parent: str | None = None


class Stories:
    """By run: the ``open`` ones as they came to be told of, and the ``ended``. Flows by version.

    ``again``: how often the triggers came again of runs of which no more is told.
    """

    def __init__(self) -> None:
        self.open: dict[str, Story] = {}
        self.ended: dict[str, Story] = {}
        self.flows: dict[str, bytes] = {}
        self.again: dict[str, int] = {}
        self.keys: dict[str, Story] = {}  # of those that are new

    def of(self, run_id: str) -> Story:
        """The story of an open run that the history may have."""
        story = self.open.get(run_id)
        if story is None:
            story = self.open[run_id] = Story(run_id)
        return story

    def find(self, run_id: str) -> Story | None:
        """The story of a run that is told of in here."""
        return self.open.get(run_id) or self.ended.get(run_id)

    def begin(self, story: Story, beginning: Beginning) -> None:
        """A run that is new."""
        story.new = beginning
        stories = self.open if story.settled_ms is None else self.ended
        stories[story.run_id] = story
        if beginning.key is not None:
            self.keys[beginning.key] = story

    def go_on(self, facts: Iterable[tuple[Run, Any]]) -> None:
        """Facts of open runs, which the runs have followed already, each behind its run."""
        stories = self.open
        for run, timed in facts:
            story = stories.get(run.id)
            if story is None:
                story = stories[run.id] = Story(run.id)
            story.run = run
            story.facts.append(timed)

    def end(self, run_id: str, settled_ms: int, ahead_ms: int) -> None:
        """The last fact of an open run is told."""
        story = self.ended[run_id] = self.open.pop(run_id)
        story.stand_still()
        story.settled_ms, story.ahead_ms = settled_ms, ahead_ms
        story.page, story.facts = encode(story.facts), []  # let go of here, where they were made

    def repeat(self, run_id: str, times: int = 1) -> None:
        """The trigger of a run has come again."""
        story = self.find(run_id)
        if story is not None:
            story.again += times
        else:
            self.again[run_id] = self.again.get(run_id, 0) + times

    def leave_ended(self) -> Stories:
        """Give out all that is not told of open runs: what comes later does not change that."""
        leaving = Stories()
        leaving.ended, self.ended = self.ended, {}
        leaving.flows, self.flows = self.flows, {}
        leaving.again, self.again = self.again, {}
        return leaving

    def take_over(self, begun: Stories) -> None:
        """Take in runs that are new, with their keys and flows."""
        self.open.update(begun.open)
        self.ended.update(begun.ended)
        self.keys.update(begun.keys)
        self.flows.update(begun.flows)

    def prior(self, entry: Entry) -> Prior | None:
        """The run that has the key of an entry, or else its id."""
        found = self.under(entry.key, entry.retention_ms) if entry.key is not None else None
        if found is not None:
            return found
        story = self.find(entry.run_id)
        if story is None or story.new is None:
            return None
        return Prior(entry.run_id, entry.digest, story.stands or story.state)

    def under(self, key: str, retention_ms: int) -> Prior | None:
        """The run that has a key, until its time has ended."""
        story = self.keys.get(key)
        if story is None or story.new is None or story.new.key_until_ms <= retention_ms:
            return None
        return Prior(story.run_id, story.new.digest, story.stands or story.state)

    @property
    def has_ended(self) -> bool:
        """Whether `leave_ended` would give out anything."""
        return bool(self.ended or self.again or self.flows)

    @property
    def new(self) -> list[Story]:
        """The runs that the history does not have: those that have ended by id, then the open ones.

        That is the order in which an index of ids takes them best.
        """
        ended = (self.ended[run_id] for run_id in sorted(self.ended))
        return [story for story in chain(ended, self.open.values()) if story.new is not None]

    @property
    def older(self) -> list[Story]:
        """The runs that it has."""
        return [story for story in self if story.new is None]

    def __iter__(self) -> Iterator[Story]:
        return chain(self.ended.values(), self.open.values())

    def __bool__(self) -> bool:
        return bool(self.open or self.ended or self.flows or self.again)


class Recent:
    """What the log holds and the history does not: ``told`` grows, the rest is on its way."""

    def __init__(self) -> None:
        self.told = Stories()
        self._leaving = Stories()

    def leave(self) -> Stories:
        """All that was told so far goes on its way."""
        self._leaving, self.told = self.told, Stories()
        for story in self._leaving.open.values():
            story.stand_still()
        return self._leaving

    def leave_ended(self) -> Stories:
        """Of what was told so far, the runs that have ended go on their way."""
        self._leaving = self.told.leave_ended()
        return self._leaving

    def arrived(self) -> None:
        """The history has what was on its way."""
        keys = self.told.keys
        for story in self._leaving.ended.values():
            key = story.new and story.new.key
            if key is not None and keys.get(key) is story:
                del keys[key]
        self._leaving = Stories()

    def prior(self, entry: Entry) -> Prior | None:
        """The run that has the key of an entry, or else its id."""
        found = self.told.prior(entry) or self._leaving.prior(entry)
        return found and self.as_it_stands(found)

    def under(self, key: str, retention_ms: int) -> Prior | None:
        """The run that has a key, until its time has ended."""
        found = self.told.under(key, retention_ms) or self._leaving.under(key, retention_ms)
        return found and self.as_it_stands(found)

    def has(self, run_id: str) -> bool:
        """Whether a run began in here."""
        stories = (self.told.find(run_id), self._leaving.find(run_id))
        return any(story is not None and story.new is not None for story in stories)

    def as_it_stands(self, prior: Prior) -> Prior:
        """Whoever found it may not have its end yet."""
        for story in (self.told.find(prior.run_id), self._leaving.find(prior.run_id)):
            state = story and story.stands
            if state is not None:
                return msgspec.structs.replace(prior, state=state)
        return prior
