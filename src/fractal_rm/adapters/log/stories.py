"""What the log holds and the history does not yet, run by run."""

from __future__ import annotations

import msgspec

from fractal_rm.domain.run import State
from fractal_rm.engine.ports import Prior


class Story(msgspec.Struct):
    """What a run is told in the log since the history was last brought up to it.

    ``facts`` are encoded, with their moments. ``state``, ``reason`` and ``node`` are how it stands
    after them; ``settled_ms`` is None while it has no end. ``new`` holds what only a run has that
    began in here.
    """

    run_id: str
    facts: list[bytes] = []
    state: State = State.NEW
    reason: str = ""
    node: str | None = None
    settled_ms: int | None = None
    ahead_ms: int = 0
    again: int = 0
    new: Beginning | None = None


class Beginning(msgspec.Struct, frozen=True):
    """Of a run that the history does not have: see `Entry`."""

    flow: str | None
    source: str
    accepted_ms: int
    key: str | None
    digest: str
    key_until_ms: int


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

    def prior(self, run_id: str, key: str | None, digest: str, retention_ms: int) -> Prior | None:
        """The run that has this key, or else this id."""
        story = self.keys.get(key) if key is not None else None
        if story is not None and story.new is not None and story.new.key_until_ms > retention_ms:
            return Prior(story.run_id, story.new.digest, story.state)
        story = self.by_run.get(run_id)
        if story is not None and story.new is not None:
            return Prior(run_id, digest, story.state)
        return None

    def __bool__(self) -> bool:
        return bool(self.by_run or self.flows)
