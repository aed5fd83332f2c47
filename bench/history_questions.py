"""Measures questions about ten million runs: `python -m bench.history_questions`.

Generates a history with the tables of this release (about two minutes, 2 GiB in a temporary
folder), and then asks for runs with each filter alone, with every two filters together, and with
random combinations. 143,000 runs are in trouble. No run has facts, as lists do not read them. All
times are CPU times, also the deadline of 100 ms, as other programs may disturb the measurement.

    python -m bench.history_questions --runs 1000000     fewer runs
    python -m bench.history_questions --keep /tmp/h      keeps the history, and uses it again
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import combinations
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, thread_time
from typing import Any

import msgspec

from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.blocks import add_to_blocks
from fractal_rm.adapters.sqlite.format.bulk import execute_bulk
from fractal_rm.adapters.sqlite.format.migrations import create
from fractal_rm.adapters.sqlite.format.row_sums import register_row_sum, with_checksum
from fractal_rm.adapters.sqlite.format.spans import add_to_spans, group_ended
from fractal_rm.adapters.sqlite.write.minutes import BegunRuns, add_to_tables, tallies_of
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Found

CHUNK = 50_000
RUNS_PER_S = 10
START_MS = 1_790_000_000_000
FLOWS = [str(n) for n in range(1, 21)]
COMPONENTS = [f"component{n}" for n in range(1, 31)]
CAUSES = ["timed-out", "status", "connect-failed", "bad-reply"]
KINDS = 600  # kinds of failure
BOUND_S = 0.2
ROUNDS = 5


def main() -> int:
    """Print a line for each question. Returns the exit code: 1 if one took more than 200 ms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000_000)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="history-"))
    path = folder / "up.journal"
    try:
        if not path.exists():
            folder.mkdir(exist_ok=True)
            began = perf_counter()
            generate(path, options.runs)
            size = path.stat().st_size / (1 << 20)
            print(
                f"generated {options.runs:,} runs, {size:,.0f} MiB, {perf_counter() - began:.0f} s"
            )
        return measure(folder, options.runs)
    finally:
        if options.keep is None:
            shutil.rmtree(folder)


def generate(
    path: Path, runs: int, start_ms: int = START_MS, *, open_state: str = "running"
) -> None:
    """Write a history with random runs. The first one was accepted at ``start_ms``.

    ``open_state`` is the state of the few runs that have not ended.
    """
    random = Random(1)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        register_row_sum(db)
        for pragma in ("page_size = 4096", "journal_mode = OFF", "synchronous = OFF"):
            db.execute(f"PRAGMA {pragma}")
        create(db)
        kinds = [
            (number, random.choice(["failed"] * 9 + ["expired"]), random.choice(FLOWS),
             random.choice(COMPONENTS), random.choice(CAUSES), f"answered # after # ms: {number}x")
            for number in range(1, KINDS + 1)
        ]  # fmt: skip
        execute_bulk(db, statements.INSERT_FAULTS, [with_checksum(kind) for kind in kinds])
        for first in range(1, runs + 1, CHUNK):
            rows = [
                _row(random, no, runs, kinds, start_ms, open_state)
                for no in range(first, min(first + CHUNK, runs + 1))
            ]
            _insert(db, rows, random)
        for name, value in {"accepted": runs, "settled": runs, "projected": 0}.items():
            db.execute(statements.SET_META, {"name": name, "value": value})
        db.execute("PRAGMA journal_mode = WAL")


def _row(
    random: Random, no: int, runs: int, kinds: list[tuple[Any, ...]], start_ms: int, open_state: str
) -> tuple[Any, ...]:
    at_ms = start_ms + no * 1_000 // RUNS_PER_S
    dice = random.random()
    state, flow, reason, node, fault = "succeeded", FLOWS[int(dice * 1e6) % 20], "", None, None
    if dice < 0.0143:
        fault, state, flow, _, _, shape = kinds[int(random.random() ** 3 * KINDS)]
        reason = shape.replace("#", str(random.randrange(1_000)))
    elif dice < 0.06:
        state, node, reason = "handed-off", str(1 + no % 3), "placed by the balancer"
    elif no % (runs // 60) == 7:
        flow = "rare"
    settled_ms: int | None = at_ms + random.randrange(1, 2_000)
    if state == "succeeded" and no % 5_003 == 0:
        state = open_state
        settled_ms = None if open_state == "running" else settled_ms
    source = "mqtt" if dice < 0.9 else "rest"
    return with_checksum(
        (no, f"{at_ms:013}{no:013}", flow, state, reason, source, node, at_ms, settled_ms, 0, None,
         fault, 0, 0, 0)
    )  # fmt: skip


def _insert(db: sqlite3.Connection, rows: list[tuple[Any, ...]], random: Random) -> None:
    db.execute("BEGIN")
    execute_bulk(db, statements.INSERT_RUNS, rows)
    begun = BegunRuns(rows[0][0], [row[2] for row in rows], [row[7] for row in rows])
    ended = group_ended(
        (row[0], row[2], row[3], row[7], row[1], row[8]) for row in rows if row[8] is not None
    )
    add_to_blocks(db, begun.first_no, begun.times_ms)
    add_to_spans(db, ended)
    add_to_tables(db, tallies_of(begun, ended))
    in_trouble = [row for row in rows if row[11] is not None]
    handled = random.sample(in_trouble, len(in_trouble) // 30)
    execute_bulk(db, statements.REPLACE_HANDLED, [
        with_checksum((row[1], "", row[7] + 60_000, "anna")) for row in handled
    ])  # fmt: skip
    db.execute("COMMIT")


def measure(folder: Path, runs: int) -> int:
    """Ask all questions, and print the figures."""
    history = SqliteHistory(folder, monotonic_s=thread_time)
    slowest = 0.0
    first_s = _seconds(history.find)
    print(f"the first question, which opens the file: {first_s * 1000:.1f} ms")
    print(f"{'question':58} {'ms':>6} {'worst':>6}  result")
    for name, ask in _questions(history, runs):
        times = [_seconds(ask) for _ in range(ROUNDS)]
        slowest = max(slowest, *times)
        result = _describe(ask(), runs)
        print(f"{name:58} {median(times) * 1000:6.1f} {max(times) * 1000:6.1f}  {result}")
    slowest = max(slowest, _combinations(history, runs))
    history.close()
    print(f"the slowest answer took {slowest * 1000:.0f} ms; the bound is {BOUND_S * 1000:.0f} ms")
    return int(slowest > BOUND_S)


def _filters(runs: int) -> dict[str, dict[str, Any]]:
    end_ms = START_MS + runs * 1_000 // RUNS_PER_S
    middle_ms = START_MS + runs * 500 // RUNS_PER_S
    return {
        "flow 7": {"flow": "7"},
        "a flow with 60 runs": {"flow": "rare"},
        "a flow that has no run": {"flow": "none"},
        "succeeded": {"states": (State.SUCCEEDED,)},
        "failed": {"states": (State.FAILED,)},
        "running": {"states": (State.RUNNING,)},
        "a state that no run has": {"states": (State.UNKNOWN, State.CANCELLED)},
        "a component": {"component": "component7"},
        "a component that was never called": {"component": "none"},
        "a cause": {"cause": "status"},
        "a text of one kind of failure": {"text": "MS: 500x"},
        "a text with numbers": {"text": "answered 503 after 77 ms"},
        "a text that is nowhere": {"text": "nowhere"},
        "node 2": {"node": "2"},
        "a node that got no run": {"node": "9"},
        "this node": {"node": "here"},
        "by rest": {"source": "rest"},
        "a source that no run has": {"source": "schedule"},
        "the last hour": {"since_ms": end_ms - 3_600_000},
        "one hour a week ago": {"since_ms": middle_ms, "until_ms": middle_ms + 3_600_000},
        "before all runs": {"until_ms": START_MS},
        "handled": {"handled": True},
        "not handled": {"handled": False},
        "dead letters": {"dead_letters": True},
    }


def _questions(history: SqliteHistory, runs: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield "every run", history.find
    yield "every run, the oldest first", lambda: history.find(oldest_first=True)
    for name, values in _filters(runs).items():
        wanted = RunFilter(**values)
        yield name, lambda wanted=wanted: history.find(wanted)
    not_handled = RunFilter(handled=False)
    yield "failures, grouped", history.failures
    yield "failures that were not handled, grouped", lambda: history.failures(not_handled)
    failed = RunFilter(states=(State.FAILED,))
    yield "number of failed runs", lambda: history.count(failed, most=1_000_000)
    yield "number of runs by rest", lambda: history.count(RunFilter(source="rest"))
    end_ms = START_MS + runs * 1_000 // RUNS_PER_S
    yield "minutes of an hour", lambda: history.minutes(end_ms - 3_600_000, end_ms)
    yield "minutes of six hours", lambda: history.minutes(end_ms - 6 * 3_600_000, end_ms)
    yield "hours of a day", lambda: history.minutes(end_ms - 86_400_000, end_ms, hours=True)
    yield "hours of a week", lambda: history.minutes(end_ms - 7 * 86_400_000, end_ms, hours=True)


def _combinations(history: SqliteHistory, runs: int) -> float:
    """Ask with every two filters, and with 300 random combinations of three or four."""
    filters, random = list(_filters(runs).values()), Random(2)
    chosen = [
        *combinations(filters, 2),
        *(random.sample(filters, random.choice([3, 4])) for _ in range(300)),
    ]
    times: list[float] = []
    timed_out = 0
    for parts in chosen:
        wanted = RunFilter(**{name: value for part in parts for name, value in part.items()})
        for oldest_first in (False, True):
            began = thread_time()
            found = history.find(wanted, oldest_first=oldest_first)
            times.append(thread_time() - began)
            timed_out += found.searched_to_ms is not None
    times.sort()
    print(
        f"{len(times):,} combinations: median {median(times) * 1000:.1f} ms, 99 %"
        f" {times[len(times) * 99 // 100] * 1000:.0f} ms, slowest {times[-1] * 1000:.0f} ms;"
        f" {timed_out:,} say how far they have searched"
    )
    return times[-1]


def _seconds(ask: Callable[[], Any]) -> float:
    began = thread_time()
    ask()
    return thread_time() - began


def _describe(answer: Any, runs: int) -> str:
    if isinstance(answer, Found):
        text = f"{len(answer.runs)} runs"
        if answer.searched_to_ms is not None:
            searched = runs - (answer.searched_to_ms - START_MS) * RUNS_PER_S // 1_000
            text += f"; searched {searched:,} runs"
        return text
    if isinstance(answer, list):
        return f"{len(answer):,} rows"
    fields = msgspec.structs.asdict(answer)
    if "groups" in fields:
        return f"{len(fields['groups'])} groups of {sum(g.count for g in fields['groups']):,} runs"
    return f"{fields['number']:,}" + ("" if fields["is_exact"] else " or more")


if __name__ == "__main__":
    raise SystemExit(main())
