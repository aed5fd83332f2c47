"""Writes runs with given facts into a journal, for tests that read them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec

from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.domain.cause import Cause, ResponseExcerpt
from fractal_rm.domain.facts import Accepted, AnyFact, Dead, Finished, Placed, Settled, StepFailed
from fractal_rm.domain.flow import Flow, flow_version
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import NewRun
from fractal_rm.flowlang import compile_flows

YEAR_S = 365 * 86_400


class WrittenRun(NamedTuple):
    """A run with its facts and their times, milliseconds since 1970. No flow: a dead letter."""

    id: str
    flow: Flow | None
    facts: Sequence[tuple[int, AnyFact]]


def run_id(number: int) -> str:
    """An id that is written with digits only."""
    return f"{number:026d}"


def accepted(flow: Flow, payload: bytes = b"{}", **fields) -> Accepted:
    """The first fact of a run."""
    return Accepted(flow.id, flow_version(flow), msgspec.Raw(payload), "mqtt", node="1", **fields)


def write_runs(folder: Path, runs: Iterable[WrittenRun], name: str = "api") -> None:
    """Write runs into a journal of the state folder ``folder``, and close it."""
    with ThreadPoolExecutor(1) as thread:  # a browser's tests run in a loop already
        thread.submit(lambda: asyncio.run(_write(folder, runs, name))).result()


async def _write(folder: Path, runs: Iterable[WrittenRun], name: str) -> None:
    limits = HistoryLimits(YEAR_S, 1 << 30, YEAR_S, 1 << 30)
    journal = open_journal(
        folder / f"{name}.journal", limits=lambda: limits, on_lost=_fail, retention_ms=lambda: 1_000
    )
    await journal.open()
    for written in runs:
        (at_ms, first), *others = written.facts
        flow = written.flow or Flow("")
        run = fold(Run(written.id, flow, at_ms), [first])
        entry = NewRun(
            written.id, written.flow, at_ms, (first,), run.state, run.reason, retention_ms=1_000
        )
        await journal.accept(entry)
        for later_ms, fact in others:
            run.apply(fact)
            journal.append(run, fact, later_ms)
        if not isinstance(first, Dead):
            await journal.durable
    await journal.close(clean=True)


def _fail(error: Exception) -> None:
    raise AssertionError(error)


FLOWS = """\
1 press a part
TO camera read
GET
TO press move
POST payload
  RETRY 2 EVERY 1s
"""
FLOW = compile_flows(FLOWS, {"camera": ("read",), "press": ("move",)})[0]["1"]
PLACED = Placed("1", "the balancer chose this node", cause=Cause.BALANCER)
READ = Finished(1, 200, 8.0, msgspec.Raw(b'"ready"'))
BUSY = "status 503: busy"


def a_success(number: int, at_ms: int, flow: Flow = FLOW, payload: bytes = b'{"part":7}'):
    end = Settled(State.SUCCEEDED)
    facts = [accepted(flow, payload), PLACED, READ, Finished(2, 200, 5, msgspec.Raw(b'"ok"')), end]
    return WrittenRun(run_id(number), flow, [(at_ms + 10 * n, f) for n, f in enumerate(facts)])


def a_failure(number: int, at_ms: int):
    answer = ResponseExcerpt(503, body_start="busy")
    again = Moment("boot", 0, at_ms + 1_100)
    return WrittenRun(run_id(number), FLOW, [
        (at_ms, accepted(FLOW)), (at_ms + 2, PLACED), (at_ms + 10, READ),
        (at_ms + 100, StepFailed(2, 1, BUSY, retry_at=again, cause=Cause.STATUS, answer=answer)),
        (at_ms + 1_200, StepFailed(2, 2, BUSY, final=True, cause=Cause.STATUS, answer=answer)),
        (at_ms + 1_201, Settled(State.FAILED, f"step 2, press move: {BUSY}", Cause.STATUS)),
    ])  # fmt: skip
