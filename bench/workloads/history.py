"""The journal as it grows: bytes a run, the cost of a run beside ten million, and of forgetting."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from bench.measure import Figure, one_round
from bench.node import Node
from bench.stage import Stage
from bench.systems import OURS, ours
from fractal_rm.adapters.sqlite.schema import PAGE_BITS

KEEP_ALL = {"max_age_s": 316_000_000, "max_bytes": 10**12}
RATE = 500
KEEP_LITTLE = {"max_age_s": 316_000_000, "max_bytes": 1 << 20}


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Runs that were really made are copied under new ids until the history is long."""
    count, many, seconds = (2_000, 50_000, 22) if quick else (10_000, 10_000_000, 40)
    rounds = 1 if quick else 3
    node = Node(stage, "history", history=KEEP_ALL)
    with node.serving():
        system = ours(node, count)
        one_round(stage, system, count // 10)
        few = [one_round(stage, system).cpu_us for _ in range(rounds)]
    runs = node.one("SELECT count(*) FROM runs")
    yield Figure("7", OURS, "journal, a run", "B", [_used_bytes(node) / runs])
    yield Figure("7", OURS, f"CPU per flow, {runs:,} in the history", "µs", few)
    _multiply(node, many)
    ready = node.start()
    long = ours(node, count)
    grown = [one_round(stage, long).cpu_us for _ in range(rounds)]
    yield Figure("7", OURS, f"CPU per flow, {many:,} in the history", "µs", grown)
    yield Figure("7", OURS, f"ready, {many:,} in the history", "s", [ready])
    steady = RATE * seconds, RATE  # long enough for a few looks at what is old
    keeping = one_round(stage, long, *steady).cpu_us
    node.end()
    node.edit("comm", lambda file: file.update(history=KEEP_LITTLE))
    with node.serving():
        # Their outcomes are forgotten too, before they could be asked for.
        long = replace(ours(node, count), outcomes=None)
        before = node.one("SELECT count(*) FROM runs")
        forgetting = one_round(stage, long, *steady).cpu_us
        forgotten = before + steady[0] - node.one("SELECT count(*) FROM runs")
    at = f"at {RATE} flows/s"
    yield Figure("7", OURS, f"CPU per flow {at}", "µs", [keeping])
    yield Figure("7", OURS, f"CPU per flow {at}, forgetting", "µs", [forgetting],
                 note=f"{forgotten:,} runs forgotten in {seconds} s")  # fmt: skip


def _used_bytes(node: Node) -> int:
    pages = node.one("PRAGMA page_count") - node.one("PRAGMA freelist_count")
    return pages * node.one("PRAGMA page_size")


def _multiply(node: Node, many: int) -> None:
    """Copy the runs of the journal, with their pages, under new numbers and ids."""
    with closing(sqlite3.connect(node.journal, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        made = db.execute("SELECT max(no) FROM runs").fetchone()[0]
        for first in range(made, many, made):
            db.execute("BEGIN")
            db.execute(
                "INSERT INTO runs SELECT no + ?, printf('%026d', no + ?), flow, state, reason,"
                " source, node, accepted_ms, settled_ms, pages, sum, 0 FROM runs WHERE no <= ?",
                (first, first, made),
            )
            db.execute(
                f"INSERT INTO pages SELECT place + (? << {PAGE_BITS}), body, sum FROM pages"
                f" WHERE place < (? << {PAGE_BITS})",
                (first, made + 1),
            )
            db.execute("COMMIT")
        added = db.execute("SELECT max(no) FROM runs").fetchone()[0] - made
        for name in ("accepted", "settled"):
            db.execute("UPDATE meta SET value = value + ? WHERE name = ?", (added, name))
