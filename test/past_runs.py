"""Writes runs of the past into the journal of a node that has not started: the same each time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import msgspec

from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.config.load import load
from fractal_rm.domain.cause import Cause, ResponseExcerpt
from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    Dead,
    Finished,
    Parked,
    Placed,
    RequestStarted,
    Settled,
    StepFailed,
)
from fractal_rm.domain.flow import Flow, flow_version
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.run_id import RunIds
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import NewRun

TOGETHER = 200
KEEP = HistoryLimits(10**9, 1 << 40, 10**9, 1 << 40)
Timed = tuple[int, AnyFact]  # milliseconds after the acceptance, and a fact


class Story(msgspec.Struct, frozen=True):
    """A run of the past: its flow (empty: a dead letter), and its facts after the acceptance."""

    flow: str
    payload: object
    facts: list[Timed]
    source: str = "mqtt"


def placed(reason: str, cause: Cause, *, named: str | None = None) -> Placed:
    return Placed("1", reason, cause=cause, named_node=msgspec.UNSET if named is None else named)


def step_done(step: int, took_ms: float, result: object, status: int = 200) -> Finished:
    return Finished(step, status, took_ms, _raw(json.dumps(result)))


def step_failed(step: int, reason: str, cause: Cause, *, attempt: int = 1, status: int = 0,
                body: str = "") -> StepFailed:  # fmt: skip
    answer = ResponseExcerpt(status, body_start=body) if status else msgspec.UNSET
    return StepFailed(step, attempt, reason, final=True, cause=cause, answer=answer)


def done() -> Settled:
    return Settled(State.SUCCEEDED)


def failed(step: str, reason: str, cause: Cause, state: State = State.FAILED) -> Settled:
    return Settled(state, f"{step}: {reason}", cause)


def begun(step: int) -> RequestStarted:
    return RequestStarted(step)


def parked(reason: str, cause: Cause) -> Parked:
    return Parked(reason, cause)


def refused(code: str, reason: str, body: bytes) -> Story:
    return Story("", None, [(0, Dead(code, reason, "mqtt", body))])


def write_past(folder: Path, stories: Iterable[tuple[int, Story]], seed: int = 7) -> None:
    """Write runs into the journal ``up`` of the node in ``folder``, in order.

    Each story has the wall time of its acceptance in milliseconds.
    """
    config = load(folder / "config_files", {}).config
    # In a thread, because Playwright has a loop in this one.
    writing = _write(folder / "state", config.flows, sorted(stories, key=_at), seed)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, writing).result()


async def _write(
    state: Path, flows: dict[str, Flow], stories: list[tuple[int, Story]], seed: int
) -> None:
    state.mkdir(exist_ok=True)
    journal = open_journal(
        state / "up.journal", limits=lambda: KEEP, retention_ms=lambda: 0, on_lost=print,
        synchronous="OFF",
    )  # fmt: skip
    await journal.open()
    ids = RunIds(Random(seed).randbytes)
    for start in range(0, len(stories), TOGETHER):
        begun_runs = [
            (at_ms, story, *_first(ids.next(at_ms), flows, at_ms, story))
            for at_ms, story in stories[start : start + TOGETHER]
        ]
        await asyncio.gather(*[journal.accept(entry) for *_, entry in begun_runs])
        for at_ms, story, run, _ in begun_runs:
            for after_ms, fact in story.facts if story.flow else ():
                run.apply(fact)
                journal.append(run, fact, at_ms + after_ms)
        await journal.durable
    await journal.close(clean=True)


def _first(run_id: str, flows: dict[str, Flow], at_ms: int, story: Story) -> tuple[Run, NewRun]:
    if not story.flow:
        letter = story.facts[0][1]
        run = fold(Run(run_id, Flow(""), at_ms), [letter])
        return run, NewRun(run_id, None, at_ms, (letter,), run.state, run.reason)
    flow = flows[story.flow]
    first = Accepted(flow.id, flow_version(flow), _raw(json.dumps(story.payload)), story.source,
                     node="1")  # fmt: skip
    run = fold(Run(run_id, flow, at_ms), [first])
    return run, NewRun(run_id, flow, at_ms, (first,), run.state, run.reason)


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


def _at(timed: tuple[int, Story]) -> int:
    return timed[0]
