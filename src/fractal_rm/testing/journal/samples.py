"""Sample runs, entries and facts for tests of a journal."""

from __future__ import annotations

from collections.abc import Awaitable

import msgspec

from fractal_rm.domain.facts import Accepted, AnyFact
from fractal_rm.domain.flow import Call, Flow, Method, flow_version
from fractal_rm.domain.run import Run, fold
from fractal_rm.engine.ports import Journal, NewRun

FLOW = Flow("7", "a flow", (Call(1, "c", "e", Method.GET),))
OTHER_FLOW = Flow("7", "the same flow, edited", (Call(1, "c", "e2", Method.GET),))
HOUR_MS = 3_600_000


def accepted(flow: Flow = FLOW, payload: bytes = b'"p"') -> Accepted:
    """Make the first fact of a run."""
    return Accepted(flow.id, flow_version(flow), msgspec.Raw(payload), "mqtt")


def entry(
    run_id: str,
    *,
    flow: Flow | None = FLOW,
    key: str | None = None,
    digest: str = "d",
    at_ms: int = 1_000,
    facts: tuple[AnyFact, ...] | None = None,
    window_ms: int = HOUR_MS,
) -> NewRun:
    """Make an entry for a new run."""
    first_facts = facts or ((accepted(flow),) if flow else ())
    run = fold(Run(run_id, flow or Flow(""), at_ms), list(first_facts))
    until_ms = at_ms + window_ms
    return NewRun(
        run_id, flow, at_ms, first_facts, run.state, run.reason, key, digest, until_ms, at_ms
    )


def begun(run_id: str, flow: Flow = FLOW) -> Run:
    """Make the run that is accepted with an `entry` of this id."""
    return fold(Run(run_id, flow, 1_000), [accepted(flow)])


def write(journal: Journal, run: Run, fact: AnyFact, at_ms: int = 1_001) -> Awaitable[None]:
    """Apply a fact to a run and append it to the journal, as the engine does.

    Await the result to wait until the fact is durable.
    """
    run.apply(fact)
    journal.append(run, fact, at_ms)
    return journal.durable


def append_fact(journal: Journal, run: Run, fact: AnyFact, at_ms: int = 1_001) -> None:
    """Apply a fact to a run and append it to the journal. Does not wait until it is durable."""
    run.apply(fact)
    journal.append(run, fact, at_ms)
