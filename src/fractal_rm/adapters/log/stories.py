"""What the log holds and the history does not yet, run by run."""

from __future__ import annotations

import msgspec

from fractal_rm.domain.run import Run
from fractal_rm.domain.state import TROUBLE, State
from fractal_rm.engine.ports import Entry, Prior


class Story(msgspec.Struct, gc=False):
    """What a run is told in the log since the history was last brought up to it.

    Each of ``facts`` is the JSON of its moment, milliseconds since 1970, and the fact.
    ``state``, ``reason`` and ``node`` are how it stands after ``facts``; ``settled_ms`` is None
    while it has no end. ``new`` holds what only a run has that began in here. ``again``: so often
    its trigger came again. ``flow``, ``cause`` and ``failed_step``, a number, are known of a run
    that ended in trouble.
    """

    run_id: str
    facts: list[msgspec.Raw] = []
    state: State = State.NEW
    reason: str = ""
    node: str | None = None
    settled_ms: int | None = None
    ahead_ms: int = 0
    again: int = 0
    new: Beginning | None = None
    flow: str | None = None
    cause: str | None = None
    failed_step: int | None = None

    def stand_as(self, run: Run) -> None:
        """Let it stand as a run does now, of which each fact is in here."""
        self.state, self.reason, self.node = run.state, run.reason, run.node
        if run.state in TROUBLE:
            self.flow, self.failed_step = run.flow.id or None, run.failed_step
            self.cause = run.cause and run.cause.value


class Beginning(msgspec.Struct, frozen=True, gc=False):
    """Of a run that the history does not have: see `Entry`."""

    flow: str | None
    source: str
    accepted_ms: int
    key: str | None
    digest: str
    key_until_ms: int
    parent: str | None = None


class Stories:
    """By run, in the order in which they came to be told of; flows by version."""

    def __init__(self) -> None:
        self.by_run: dict[str, Story] = {}
        self.flows: dict[str, bytes] = {}
        self.keys: dict[str, Story] = {}

    def of(self, run_id: str) -> Story:
        """The story of a run that the history may have."""
        story = self.by_run.get(run_id)
        if story is None:
            story = self.by_run[run_id] = Story(run_id)
        return story

    def begin(self, story: Story, beginning: Beginning) -> None:
        """A run that is new."""
        story.new = beginning
        self.by_run[story.run_id] = story
        if beginning.key is not None:
            self.keys[beginning.key] = story

    def take_over(self, begun: Stories) -> None:
        """Take in runs that are new, with their keys and flows."""
        self.by_run.update(begun.by_run)
        self.keys.update(begun.keys)
        self.flows.update(begun.flows)

    def prior(self, entry: Entry) -> Prior | None:
        """The run that has the key of an entry, or else its id."""
        found = self.under(entry.key, entry.retention_ms) if entry.key is not None else None
        if found is not None:
            return found
        story = self.by_run.get(entry.run_id)
        if story is None or story.new is None:
            return None
        return Prior(entry.run_id, entry.digest, self.state_of(entry.run_id) or story.state)

    def under(self, key: str, retention_ms: int) -> Prior | None:
        """The run that has a key, until its time has ended."""
        story = self.keys.get(key)
        if story is None or story.new is None or story.new.key_until_ms <= retention_ms:
            return None
        state = self.state_of(story.run_id) or story.state
        return Prior(story.run_id, story.new.digest, state)

    def state_of(self, run_id: str) -> State | None:
        """How a run stands; None: nothing is told of it in here."""
        story = self.by_run.get(run_id)
        return story.state if story is not None and story.facts else None

    def __bool__(self) -> bool:
        return bool(self.by_run or self.flows)


class Recent:
    """What the log holds and the history does not: ``told`` grows, the rest is on its way."""

    def __init__(self) -> None:
        self.told = Stories()
        self._leaving = Stories()

    def leave(self) -> Stories:
        """What was told so far goes on its way."""
        self._leaving, self.told = self.told, Stories()
        return self._leaving

    def arrived(self) -> None:
        """The history has what was on its way."""
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
        for stories in (self.told, self._leaving):
            story = stories.by_run.get(run_id)
            if story is not None and story.new is not None:
                return True
        return False

    def as_it_stands(self, prior: Prior) -> Prior:
        """Whoever found it may not have its end yet."""
        for stories in (self.told, self._leaving):
            state = stories.state_of(prior.run_id)
            if state is not None:
                return msgspec.structs.replace(prior, state=state)
        return prior
