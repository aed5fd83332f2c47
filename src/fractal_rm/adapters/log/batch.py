"""What is written together: the records of one frame, and what the history is told of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from fractal_rm.adapters.log import records
from fractal_rm.adapters.log.stories import Beginning, Stories, Story
from fractal_rm.adapters.log.timed import VALUE_BYTES, Blob, Ref, take_out
from fractal_rm.domain.facts import Accepted, AnyFact, Dead, Settled, parent_of
from fractal_rm.domain.flow import Flow, flow_version
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Entry, Prior

Behind = tuple[Run, tuple[int, AnyFact]]  # a fact that its run has followed, behind its moment
Age = Callable[[], int]  # the clock by which history ages, milliseconds
ENDS = frozenset({Settled, Dead})
# So little the wall clock and that of history may stand apart, and count as one.
SAME_MS = 60_000


class Facts:
    """Facts of open runs. ``records`` are what the log says."""

    BEGINS = b',["fact","'  # as most of them do

    def __init__(self, facts: Sequence[Behind], age: Age) -> None:
        self._facts: Sequence[tuple[Run, Any]] = facts
        self._refs: list[tuple[str, Ref]] = []
        self._ends: list[tuple[str, int, int]] = []
        self.records: list[Any] = [("fact", run.id, timed) for run, timed in facts]
        age_ms: int | None = None  # now, for all of them
        for at, (run, timed) in enumerate(facts):
            if type(timed[1]) in ENDS:
                if age_ms is None:
                    age_ms = age()
                ahead_ms = _ahead_of(timed[0], age_ms)
                self.records[at] = ("end", run.id, timed, ahead_ms)
                self._ends.append((run.id, timed[0], ahead_ms))

    def take_out(self, new_name: Callable[[], str]) -> list[Blob]:
        """Large values stand elsewhere from here on."""
        blobs: list[Blob] = []
        facts = list(self._facts)
        for at, (run, (at_ms, fact)) in enumerate(self._facts):
            found = take_out(fact, new_name)
            if found is not None:
                small, blob = found
                timed = (at_ms, small, blob.ref)
                facts[at] = (run, timed)
                kind, run_id, _, *rest = self.records[at]
                self.records[at] = (kind, run_id, timed, *rest)
                self._refs.append((run_id, blob.ref))
                blobs.append(blob)
        self._facts = facts
        return blobs

    def tell(self, stories: Stories) -> None:
        """They stand in the log: they are on their way into the history."""
        stories.go_on(self._facts)
        for run_id, ref in self._refs:
            stories.of(run_id).refs += (ref,)
        for end in self._ends:
            stories.end(*end)


class Beginnings:
    """New runs, and triggers that came again."""

    BEGINS = b',["run","'

    def __init__(self, age: Age) -> None:
        self._age = age
        self._begun = Stories()
        self._again: list[str] = []
        self.records: list[Any] = []

    def prior(self, entry: Entry) -> Prior | None:
        """The run that began in here with the key of an entry, or else its id."""
        return self._begun.prior(entry)

    def add_flow(self, flow: Flow) -> None:
        """A definition that runs begin with from here on."""
        version, body = flow_version(flow), records.encode(flow)
        self._begun.flows[version] = body
        self.records.append(("flow", version, msgspec.Raw(body)))

    def begin(self, entry: Entry) -> None:
        """A new run, or a dead letter."""
        at_ms, first = entry.at_ms, entry.facts[0]
        facts = [(at_ms, fact) for fact in entry.facts]
        settled_ms = at_ms if entry.state.final else None
        ahead_ms = 0 if settled_ms is None else _ahead_of(settled_ms, self._age())
        flow = entry.flow.id if entry.flow else None
        self._begun.begin(
            Story(entry.run_id, facts, entry.state, entry.reason, None, settled_ms, ahead_ms),
            beginning_of(first, flow, at_ms, entry.key, entry.digest, entry.key_until_ms),
        )
        self.records.append(
            ("run", entry.run_id, flow, entry.key, entry.digest, entry.key_until_ms, facts,
             ahead_ms)
        )  # fmt: skip

    def take_out(self, new_name: Callable[[], str]) -> list[Blob]:
        """Large values stand elsewhere from here on: `records` have the lists of the stories."""
        blobs: list[Blob] = []
        for story in self._begun:
            for at, (at_ms, fact) in enumerate(story.facts):
                found = take_out(fact, new_name)
                if found is not None:
                    small, blob = found
                    story.facts[at] = (at_ms, small, blob.ref)
                    story.refs += (blob.ref,)
                    blobs.append(blob)
        return blobs

    def repeat(self, run_id: str) -> None:
        """The trigger of a run has come again."""
        self._again.append(run_id)
        self.records.append(("again", run_id))

    def tell(self, stories: Stories) -> None:
        """They stand in the log: they are on their way into the history."""
        stories.take_over(self._begun)
        for run_id in self._again:
            stories.repeat(run_id)


def encoded(batch: Beginnings | Facts, new_name: Callable[[], str]) -> tuple[bytes, list[Blob]]:
    """What a frame says, and the blobs that it names."""
    body = records.encode(batch.records)
    blobs = batch.take_out(new_name) if _may_be_large(body, batch.BEGINS) else []
    if blobs:
        refs = [blob.ref for blob in blobs]
        body = records.encode([("blobs", refs), *batch.records])
    return body, blobs


def _may_be_large(body: bytes, begins: bytes) -> bool:
    """Whether there is a stretch in which a large value may stand: no record begins in it.

    So facts are looked at one by one where one may be large, and not where they are many. A value
    that itself has in it how a record begins may stay where it is.
    """
    at = 0
    while len(body) - at > VALUE_BYTES:
        at = body.rfind(begins, at + 1, at + VALUE_BYTES)
        if at < 0:
            return True
    return False


def beginning_of(
    first: AnyFact | None, flow: str | None, at_ms: int, key: str | None, digest: str,
    key_until_ms: int,
) -> Beginning:  # fmt: skip
    """What the history needs to know of a run with this first fact; None: nobody can read it."""
    version, parent = "", None
    if isinstance(first, Accepted):
        version, parent = first.version, parent_of(first)
    source = getattr(first, "source", "")
    return Beginning(flow, version, source, at_ms, key, digest, key_until_ms, parent)


def _ahead_of(ended_ms: int, age_ms: int) -> int:
    """How far the age of history is ahead of the wall clock: for days, a minute is nothing.

    So it is 0, which takes no room, as long as nobody sets the wall clock.
    """
    ahead_ms = age_ms - ended_ms
    return ahead_ms if abs(ahead_ms) >= SAME_MS else 0
