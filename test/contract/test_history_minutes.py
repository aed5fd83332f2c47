"""Counts by minute and hour: for charts that read no rows of runs."""

from __future__ import annotations

from itertools import count
from random import Random

import msgspec
from test_history_kills import store_at

from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.log.run_updates import RunStart, RunUpdate, RunUpdates
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.repair import repair
from fractal_rm.domain.facts import Accepted
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Minute

NUMBERS = count(1)
START_MS = 1_700_000_040_000  # the beginning of a minute
HOUR_MS = 3_600_000
FIRST_HOUR_MS = START_MS - START_MS % HOUR_MS


def batch(*runs: tuple[str, State, int, int | None]) -> RunUpdates:
    """An update with new runs: flow, state, seconds of acceptance and of the end after START_MS."""
    updates = RunUpdates()
    for flow, state, begun_s, ended_s in runs:
        at_ms = START_MS + begun_s * 1_000
        accepted = Accepted(flow, "v", msgspec.Raw(b"1"), "mqtt")
        facts = [msgspec.Raw(msgspec.json.encode((at_ms, accepted)))]
        settled_ms = None if ended_s is None else START_MS + ended_s * 1_000
        run_id = f"{next(NUMBERS):08}"
        update = RunUpdate(run_id, facts, state, settled_ms=settled_ms)
        updates.begin(update, RunStart(flow, "v", "mqtt", at_ms, None, "", 0))
    return updates


def written(folder, *batches: RunUpdates) -> SqliteHistory:
    """A history into which the batches were written, each by a process of its own."""
    for updates in batches:
        store = store_at(folder / "up.journal")
        store.open()
        store.project(updates, Projected(0, 0))
        store.close(clean=False)
    return SqliteHistory(folder)


def problems_of(folder) -> list[str]:
    return check_journal(folder / "up.journal").problems


def test_runs_are_counted_in_the_minutes_of_their_acceptance_and_of_their_end(tmp_path):
    done, failed = State.SUCCEEDED, State.FAILED
    history = written(
        tmp_path,
        batch(("1", done, 0, 1), ("1", done, 0, 3), ("1", failed, 59, 61), ("2", done, 5, 5)),
        batch(("1", done, 10, 12), ("1", State.RUNNING, 70, None)),  # some are late
        batch(("2", done, 4_000, 4_001)),
    )
    minutes = history.minutes(START_MS, START_MS + 2 * HOUR_MS)
    assert minutes == [
        Minute(START_MS, "1", State.ACCEPTED, 4),
        Minute(START_MS, "1", done, 3, [0] * 10 + [1, 1, 1]),  # 1,000, 2,000 and 3,000 ms
        Minute(START_MS, "2", State.ACCEPTED, 1),
        Minute(START_MS, "2", done, 1, [1]),
        Minute(START_MS + 60_000, "1", State.ACCEPTED, 1),
        Minute(START_MS + 60_000, "1", failed, 1, [0] * 11 + [1]),
        Minute(START_MS + 3_960_000, "2", State.ACCEPTED, 1),
        Minute(START_MS + 3_960_000, "2", done, 1, [0] * 10 + [1]),
    ]
    assert history.minutes(START_MS + 1, START_MS + 2 * HOUR_MS, flow="1") == minutes[4:6]
    hours = history.minutes(FIRST_HOUR_MS, FIRST_HOUR_MS + HOUR_MS, flow="1", hours=True)
    assert [(hour.state, hour.runs) for hour in hours] == [
        (State.ACCEPTED, 5), (failed, 1), (done, 3),
    ]  # fmt: skip
    assert [each for each in problems_of(tmp_path) if "facts" not in each] == []


def test_the_counts_of_all_journals_are_added_and_a_clock_that_is_set_loses_none(tmp_path):
    random = Random(2)
    expected = 0
    for name in ("api", "mqtt"):
        store = store_at(tmp_path / f"{name}.journal")
        store.open()
        for _ in range(20):
            at_s = random.choice([0, 60, 3_600, -7_200, 100_000])
            store.project(batch(*[("1", State.SUCCEEDED, at_s, at_s + 1)] * 3), Projected(0, 0))
            expected += 3
        store.close(clean=True)
    history = SqliteHistory(tmp_path)
    for hours in (False, True):
        counts = history.minutes(0, 1 << 62, hours=hours)
        for state in (State.ACCEPTED, State.SUCCEEDED):
            assert sum(each.runs for each in counts if each.state is state) == expected
        assert [each.at_ms for each in counts] == sorted(each.at_ms for each in counts)


def test_many_flows_in_one_minute_are_counted(tmp_path):
    runs = [(f"flow-{n}", State.SUCCEEDED, n % 60, n % 60 + 1) for n in range(300)]
    history = written(tmp_path, batch(*runs[:200]), batch(*runs[200:]), batch(*runs))
    counts = history.minutes(START_MS, START_MS + HOUR_MS)
    assert sum(each.runs for each in counts if each.state is State.ACCEPTED) == 600
    assert [each for each in problems_of(tmp_path) if "facts" not in each] == []


def test_a_repair_keeps_the_counts(tmp_path):
    history = written(
        tmp_path, batch(("1", State.SUCCEEDED, 0, 1)), batch(("1", State.FAILED, 99, 99))
    )
    before = history.minutes(START_MS, START_MS + HOUR_MS)
    assert len(before) == 4
    history.close()
    assert [loss for loss in repair(tmp_path / "up.journal").lost if "counts" in loss] == []
    assert SqliteHistory(tmp_path).minutes(START_MS, START_MS + HOUR_MS) == before
