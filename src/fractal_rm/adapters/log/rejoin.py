"""Makes updates of runs from a damaged log, and decides what a gap in the log means for each run.

- A run that was open at a gap may have lost facts in the gap. If a fact after the gap ends the run,
  the run has the state of that fact. Otherwise it ends as unknown, and is not executed again.
- If a run began in a gap and has facts after the gap, it is set aside as dead with these facts.
- A run that began after the last gap is complete. If its flow was in a gap, it ends as unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

import msgspec

from fractal_rm.adapters.log import records, timed
from fractal_rm.adapters.log.replay import updates_in
from fractal_rm.adapters.log.run_updates import RunStart, RunUpdate, RunUpdates
from fractal_rm.adapters.log.segments import PlacedBody
from fractal_rm.adapters.log.timed import Ref, Timed
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import AnyFact, Dead, Settled
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State

LOST = "a part of the log was lost: it is unknown what this run has done"
LOST_FLOW = "a part of the log was lost, including the flow of this run"
LOST_VALUE = "a value that this run has sent or received was lost"
LOST_BEGINNING = "a part of the log was lost, including the beginning of this run"
BODY_BYTES = 4_096  # how many bytes are stored of the facts of a run whose beginning is lost

_page = msgspec.json.Decoder(list[msgspec.Raw]).decode


class HistoryBefore(msgspec.Struct, frozen=True):
    """The history that this log continues.

    It has all runs that ended before the position ``ended_until``. ``run_of`` returns a run with
    the facts that the history has. ``has_flow`` tells whether the history has a flow version.
    """

    open_ids: Iterable[str]
    run_of: Callable[[str], Run | None]
    has_flow: Callable[[str], bool]
    ended_until: int = -1


class Rejoined(msgspec.Struct):
    """The runs of a damaged log; ``updates`` are all updates for the history.

    Three lists have the ids of incomplete runs: ``unknown`` runs end as unknown. The runs
    ``without_beginning`` are set aside, as their beginning is lost. ``ended`` runs ended after a
    gap. ``undecodable`` is the number of valid bodies that cannot be decoded. ``lost`` are messages
    about lost values.
    """

    updates: RunUpdates
    unknown: list[str]
    without_beginning: list[str]
    ended: list[str]
    undecodable: int
    lost: list[str]

    @property
    def incomplete_runs(self) -> int:
        """The number of incomplete runs."""
        return len(self.unknown) + len(self.without_beginning) + len(self.ended)


def rejoin(
    parts: Iterable[list[PlacedBody]],
    history: HistoryBefore,
    why_lost: Callable[[Ref], str | None] = lambda _: None,
) -> Rejoined:
    """Make updates from the parts of a log. Between two parts is a gap.

    ``why_lost`` returns why a blob is lost; None: the blob is valid.
    """
    joining = _Rejoining(history, _LostValues(why_lost))
    for number, part in enumerate(parts):
        if number > 0:
            joining.add_gap()
        joining.add(part)
    return joining.result()


class _LostValues:
    """Finds large values whose blob is lost.

    ``lost`` has a message for each such value. ``run_ids`` are the runs that have such values.
    """

    def __init__(self, why_lost: Callable[[Ref], str | None]) -> None:
        self._why_lost = why_lost
        self.lost: list[str] = []
        self.run_ids: dict[str, None] = {}

    def checked(self, update: RunUpdate, ref: Ref, raw: msgspec.Raw) -> msgspec.Raw:
        """The fact. If the blob is lost, the fact is marked; see `timed.without_value`."""
        reason = self._why_lost(ref)
        if reason is None:
            update.refs += (ref,)
            return raw
        self.lost.append(f"of run {update.run_id}, {reason}")
        self.run_ids[update.run_id] = None
        return timed.without_value(raw)


class _Rejoining:
    """Collects the updates of runs from the parts of a damaged log."""

    def __init__(self, history: HistoryBefore, values: _LostValues) -> None:
        self._history = history
        self._values = values
        self._updates = RunUpdates()
        self._runs: dict[str, Run | None] = {}
        self._open = dict.fromkeys(history.open_ids)  # ids of open runs, in order
        # Ids of runs that were open at a gap, or have a fact that cannot be applied.
        self._doubtful: dict[str, None] = {}
        self._ended: list[str] = []
        self._without_beginning: dict[str, list[msgspec.Raw]] = {}
        self._latest_ms = 0
        self._undecodable = 0

    def add_gap(self) -> None:
        """Mark every open run: it may have lost facts in the gap."""
        self._doubtful |= self._open

    def add(self, part: list[PlacedBody]) -> None:
        """Add bodies without a gap between them."""
        for bodies in self._decodable(part):
            updates = updates_in(bodies, _no_run, self._history.ended_until)
            self._updates.flows.update(updates.flows)
            for run_id, times in updates.duplicates.items():
                self._updates.add_duplicates(run_id, times)
            for run_id, facts in updates.after_end.items():
                self._updates.after_end.setdefault(run_id, []).extend(facts)
            for update in updates:
                self._add_update(update, _facts_of(update))

    def result(self) -> Rejoined:
        """End or set aside the incomplete runs, and return all updates."""
        ended_after_gap = self._ended.copy()
        unknown = {
            run_id: reason
            for run_id in self._open
            if (reason := self._why_unknown(run_id)) is not None
        }
        for run_id, reason in unknown.items():
            self._end_as_unknown(run_id, reason)
        for run_id, facts in self._without_beginning.items():
            self._set_aside(run_id, facts)
        return Rejoined(
            self._updates,
            list(unknown),
            list(self._without_beginning),
            ended_after_gap,
            self._undecodable,
            self._values.lost,
        )

    def _decodable(self, part: list[PlacedBody]) -> Iterator[list[PlacedBody]]:
        """Yield the bodies that can be decoded. Other bodies count as gaps."""
        for is_decodable, bodies in groupby(part, key=_can_be_decoded):
            if is_decodable:
                yield list(bodies)
            else:
                self._undecodable += len(list(bodies))
                self.add_gap()

    def _add_update(self, update: RunUpdate, facts: list[msgspec.Raw]) -> None:
        run = self._run(update.run_id)
        if update.duplicates:
            self._updates.add_duplicates(update.run_id, update.duplicates)
        if update.new is not None:
            if run is None:
                self._begin(update.run_id, update.new, facts, update.ahead_ms)
        elif run is not None:
            self._add_facts(run, facts, update.ahead_ms)
        elif facts:
            self._without_beginning.setdefault(update.run_id, []).extend(facts)

    def _begin(
        self, run_id: str, beginning: RunStart, facts: list[msgspec.Raw], ahead_ms: int
    ) -> None:
        run = Run(run_id, Flow(beginning.flow or ""), beginning.accepted_ms)
        self._runs[run_id] = run
        self._updates.begin(RunUpdate(run_id), beginning)
        self._add_facts(run, facts, ahead_ms)

    def _add_facts(self, run: Run, facts: list[msgspec.Raw], ahead_ms: int) -> None:
        """Add facts, up to the first fact that cannot be applied."""
        settled_ms = None
        allowed_facts = [] if run.state.final else facts
        for raw in allowed_facts:
            applied = _apply(run, raw)
            if applied is None:
                self._doubtful[run.id] = None
                break
            at_ms = applied.at_ms
            self._latest_ms = max(self._latest_ms, at_ms)
            update = self._updates.get_or_add(run.id)
            fact = self._values.checked(update, applied.ref, raw) if applied.ref else raw
            update.facts.append(fact)
            update.copy_state_of(run)
            if run.state.final:
                settled_ms = at_ms
        if not run.state.final:
            self._open[run.id] = None
        elif settled_ms is not None:
            self._updates.end(run.id, settled_ms, ahead_ms)
            self._open.pop(run.id, None)
            if run.id in self._doubtful:
                self._ended.append(run.id)

    def _why_unknown(self, run_id: str) -> str | None:
        """Why an open run ends as unknown; None: the run can be resumed."""
        if run_id in self._doubtful:
            return LOST
        if run_id in self._values.run_ids:
            return LOST_VALUE
        return None if self._has_flow(run_id) else LOST_FLOW

    def _run(self, run_id: str) -> Run | None:
        if run_id not in self._runs:
            self._runs[run_id] = self._history.run_of(run_id)
        return self._runs[run_id]

    def _has_flow(self, run_id: str) -> bool:
        """Whether the flow of an open run is known. Runs of the history are checked elsewhere."""
        update = self._updates.open.get(run_id)
        if update is None or update.new is None:
            return True
        version = update.new.version
        return version in self._updates.flows or self._history.has_flow(version)

    def _end_as_unknown(self, run_id: str, reason: str) -> None:
        run = self._run(run_id)
        if run is None:  # the facts are not valid for a run: the next start sets it aside
            return
        end = Settled(State.UNKNOWN, reason, Cause.UNREADABLE)
        self._add_facts(run, [_timed(max(self._latest_ms, run.accepted_ms), end)], 0)

    def _set_aside(self, run_id: str, facts: list[msgspec.Raw]) -> None:
        fact = Dead(Cause.UNREADABLE.text, LOST_BEGINNING, "", records.encode(facts)[:BODY_BYTES])
        at_ms = self._latest_ms
        run = Run(run_id, Flow(""), at_ms)
        run.apply(fact)
        update = RunUpdate(run_id, [_timed(at_ms, fact)])
        update.copy_state_of(run)
        self._updates.begin(update, RunStart(None, "", "", at_ms, None, "", 0))
        self._updates.end(run_id, at_ms, 0)


def _apply(run: Run, raw: msgspec.Raw) -> Timed | None:
    """Apply a fact to a run; returns the decoded fact. None: it cannot be applied."""
    try:
        decoded = timed.decode(raw)
        run.apply(decoded.fact)
    except Exception:  # noqa: BLE001 - the fact may be of any release
        return None
    return decoded


def _facts_of(update: RunUpdate) -> list[msgspec.Raw]:
    return update.facts if update.page is None else _page(update.page)


def _can_be_decoded(placed: PlacedBody) -> bool:
    try:
        records.decode(placed.body)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _timed(at_ms: int, fact: AnyFact) -> msgspec.Raw:
    return msgspec.Raw(records.encode((at_ms, fact)))


def _no_run(_: str) -> None:
    """Return None: `_Rejoining` makes the runs itself."""
