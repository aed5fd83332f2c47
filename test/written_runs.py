"""Writes runs with given facts into a journal, for tests that read them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.domain.facts import Accepted, AnyFact, Dead
from fractal_rm.domain.flow import Flow, flow_version
from fractal_rm.domain.run import Run, fold
from fractal_rm.engine.ports import NewRun

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
    asyncio.run(_write(folder, runs, name))


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
