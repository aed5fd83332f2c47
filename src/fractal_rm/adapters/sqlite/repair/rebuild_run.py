"""Copy one run of a damaged history, as far as the run is valid.

If the facts of an ended run are lost, its row is kept without facts. If an open run may lack facts,
it ends as unknown. If such a run continued, it might repeat calls.
"""

from __future__ import annotations

from collections.abc import Callable

from fractal_rm.adapters.log.blobs import BlobFiles
from fractal_rm.adapters.log.run_updates import RunUpdate
from fractal_rm.adapters.log.timed import Timed
from fractal_rm.adapters.sqlite.format.page_chain import (
    chain_start,
    encode_page,
    page_checksum,
    valid_timed_facts,
)
from fractal_rm.adapters.sqlite.format.row_sums import checksum_matches
from fractal_rm.adapters.sqlite.format.run_row import RunRow
from fractal_rm.adapters.sqlite.read.salvage import Page, Salvage
from fractal_rm.adapters.sqlite.repair.blobs import without_lost_blobs
from fractal_rm.adapters.sqlite.repair.new_history import (
    NewHistory,
    count_and_last_sum,
)
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.domain.transitions import ImpossibleFact

LOST = "its facts were damaged, so it is not known what the run has done"


class RunRebuilder:
    """Copies runs. ``rebuilt`` counts the runs whose row was rebuilt from their facts alone."""

    def __init__(
        self, salvage: Salvage, new: NewHistory, blobs: BlobFiles, add_lost: Callable[[str], None]
    ) -> None:
        self._salvage = salvage
        self._new = new
        self._blobs = blobs
        self._add_lost = add_lost
        self.rebuilt = 0

    def copy(self, no: int, row: RunRow | None, indexed_id: str | None) -> None:
        """Copy a run. ``row`` and ``indexed_id`` are None if they were not found."""
        row = row if row is not None and checksum_matches(row) else None
        run_id = row.id if row else indexed_id
        if run_id is None:
            self._add_lost(f"run no. {no}, whose id is not known")
            return
        pages = self._salvage.pages_of(no)
        page_count, last_checksum = (row.pages, row.chain) if row else count_and_last_sum(pages)
        if row and not page_count:  # the facts were dropped because of their age
            self._new.add_row(row)
            return
        pages_of_run = [(n, body, page_sum) for _, n, body, page_sum in pages]
        facts, problem = valid_timed_facts(run_id, pages_of_run, page_count, last_checksum)
        facts, blob_losses = without_lost_blobs(self._blobs, facts)
        for each in blob_losses:
            self._add_lost(f"of run {run_id}, {each}")
        if problem is None and facts:
            flow_id = row.flow if row else _flow_of(facts)
            try:
                run = fold(Run(run_id, Flow(flow_id or ""), 0), [each.fact for each in facts])
            except ImpossibleFact as error:
                problem = str(error)
            else:
                if not run.state.final and not self._new.has_flow(_version_of(facts)):
                    problem = "its flow is lost"
                elif not run.state.final and blob_losses:
                    problem = blob_losses[0]
                else:
                    self.rebuilt += row is None
                    new_pages = _as_one_page(no, run_id, facts) if blob_losses else pages
                    self._new.add_run(no, run, facts, new_pages, row)
                    return
        self._copy_without_facts(no, run_id, row, facts, problem or "it has no facts")

    def _copy_without_facts(
        self, no: int, run_id: str, row: RunRow | None, facts: list[Timed], reason: str
    ) -> None:
        has_ended = row is not None and row.settled_ms is not None
        effect = "is kept without facts" if has_ended else "ends as unknown"
        self._add_lost(f"facts of run {run_id}, which {effect} ({reason})")
        if row is not None and has_ended:
            fault = None
            if row.state in {state.value for state in TROUBLE_STATES}:
                update = RunUpdate(run_id, state=State(row.state), reason=row.reason, flow=row.flow)
                fault = self._new.fault_of(no, update)
            self._new.add_row(row._replace(fault=fault, pages=0, chain=0))
            return
        accepted_ms = facts[0].at_ms if facts else 0
        run = Run(run_id, Flow(_flow_of(facts) or ""), accepted_ms)
        valid = _apply_while_possible(run, facts)
        if not valid:
            if row is not None:
                self._end_as_unknown(no, row)
            return
        if not run.state.final:
            end = Settled(State.UNKNOWN, LOST, Cause.UNREADABLE)
            run.apply(end)
            valid.append(Timed(valid[-1].at_ms, end))
        self._new.add_run(no, run, valid, _as_one_page(no, run_id, valid), row)

    def _end_as_unknown(self, no: int, row: RunRow) -> None:
        """Insert a run with the end "unknown". Its other values are those of its old row."""
        update = RunUpdate(row.id, state=State.UNKNOWN, reason=LOST, flow=row.flow)
        fault = self._new.fault_of(no, update)
        self._new.add_row(row._replace(
            state=State.UNKNOWN.text, reason=LOST, settled_ms=row.accepted_ms, ended_ahead_ms=0,
            fault=fault, pages=0, chain=0,
        ))  # fmt: skip


def _apply_while_possible(run: Run, facts: list[Timed]) -> list[Timed]:
    """Apply facts until a fact is impossible. Returns the facts that were applied."""
    applied: list[Timed] = []
    for each in facts:
        try:
            run.apply(each.fact)
        except ImpossibleFact:
            break
        applied.append(each)
    return applied


def _as_one_page(no: int, run_id: str, facts: list[Timed]) -> list[Page]:
    body = encode_page([each.as_tuple for each in facts])
    return [(no, 1, body, page_checksum(chain_start(run_id), 1, body))]


def _flow_of(facts: list[Timed]) -> str | None:
    return getattr(facts[0].fact, "flow", None) if facts else None


def _version_of(facts: list[Timed]) -> object:
    return getattr(facts[0].fact, "version", None)
