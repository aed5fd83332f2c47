"""Makes updates of runs from a log: after a crash, or while another process writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from fractal_rm.adapters.log import records, timed
from fractal_rm.adapters.log.batch import beginning_of
from fractal_rm.adapters.log.run_updates import RunUpdate, RunUpdates
from fractal_rm.adapters.log.segments import PlacedBody
from fractal_rm.domain.facts import Dead
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.journal_errors import JournalDamaged
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State


def updates_in(
    bodies: Iterable[PlacedBody], run_of: Callable[[str], Run | None], ended_until: int = -1
) -> RunUpdates:
    """Collect the records of bodies by run. ``run_of`` makes a run of the facts in the history.

    The history has all runs that ended before ``ended_until``; see `RunUpdates.take_ended`. Raises
    JournalDamaged if a valid body cannot be decoded.
    """
    replay = _Replay(run_of)
    stories = replay.stories
    for body, end in bodies:
        replay.names_blobs = False
        try:
            found = records.decode(body)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise JournalDamaged(f"of the log, a body cannot be read: {error}") from error
        for record in found:
            replay.take(record)
            if end <= ended_until and isinstance(record, records.EndRecord):
                stories.open.pop(record.run_id, None)  # the history has it already
        if end <= ended_until:
            stories.take_ended()
    return stories


class _Replay:
    def __init__(self, run_of: Callable[[str], Run | None]) -> None:
        self.stories = RunUpdates()
        self._run_of = run_of
        self._runs: dict[str, Run | None] = {}
        self.names_blobs = False

    def take(self, record: records.Record) -> None:
        """Add one record to the updates."""
        if isinstance(record, records.FlowRecord):
            self.stories.flows[record.version] = bytes(record.body)
        elif isinstance(record, records.DuplicateRecord):
            self.stories.repeat(record.run_id, record.times)
        elif isinstance(record, records.RunRecord):
            self._begin(record)
        elif isinstance(record, records.BlobsRecord):
            self.names_blobs = True
        else:
            ahead_ms = record.ahead_ms if isinstance(record, records.EndRecord) else 0
            self._add_facts(self.stories.of(record.run_id), [record.fact], ahead_ms)

    def _begin(self, record: records.RunRecord) -> None:
        at_ms, first = timed.decode_any(record.facts[0])
        story = RunUpdate(record.run_id, state=State.ACCEPTED)
        self.stories.begin(story, beginning_of(
            first, record.flow, at_ms, record.key, record.digest, record.key_until_ms,
        ))  # fmt: skip
        self._runs[record.run_id] = Run(record.run_id, Flow(record.flow or ""), at_ms)
        self._add_facts(story, record.facts, record.ahead_ms)

    def _add_facts(self, story: RunUpdate, facts: list[msgspec.Raw], ahead_ms: int) -> None:
        """Add facts, also if no run can be made of them: such a run is set aside later."""
        story.facts += facts
        if self.names_blobs:
            story.refs += tuple(timed.refs_in(facts))
        run = self._run(story.run_id)
        if run is None:
            self._end_if_dead(story, facts[-1], ahead_ms)
            return
        settled_ms = None
        try:
            for each in map(timed.decode, facts):
                run.apply(each.fact)
                if run.state.final:
                    settled_ms = each.at_ms
        except Exception:  # noqa: BLE001 - facts of any release may come here
            self._runs[story.run_id] = None
            return
        story.copy_state_of(run)
        if settled_ms is not None:
            self.stories.end(story.run_id, settled_ms, ahead_ms)

    def _end_if_dead(self, story: RunUpdate, last: msgspec.Raw, ahead_ms: int) -> None:
        """A run that cannot be made of its facts has ended if its last fact set it aside."""
        at_ms, dead = timed.decode_any(last)
        if isinstance(dead, Dead):
            run = Run(story.run_id, Flow((story.new and story.new.flow) or ""), at_ms)
            run.apply(dead)
            story.copy_state_of(run)
            self.stories.end(story.run_id, at_ms, ahead_ms)

    def _run(self, run_id: str) -> Run | None:
        if run_id not in self._runs:
            self._runs[run_id] = self._run_of(run_id)
        return self._runs[run_id]
