"""Failed runs are kept longer than others, and many successes do not displace them."""

from __future__ import annotations

import msgspec
from disk_journals import DAY_S, GIB, ManualRetentionClock, let_a_day_pass, sqlite_journal

from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.domain.facts import Accepted, Settled
from fractal_rm.domain.flow import flow_version
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import FLOW, begun, entry, write

BIG = (Accepted(FLOW.id, flow_version(FLOW), msgspec.Raw(b'"%b"' % (b"x" * 10_000)), "mqtt"),)


async def end_some(journal, name: str, state: State, count: int, at_ms: int = 1_000) -> None:
    for n in range(count):
        run_id = f"{name}-{n:03}"
        await journal.accept(entry(run_id, facts=BIG, at_ms=at_ms))
        await write(journal, begun(run_id), Settled(state, "why"), at_ms)


def kept(folder) -> list[str]:
    return sorted({run.id.rpartition("-")[0] for run in SqliteHistory(folder).runs(limit=1_000)})


async def test_a_failed_run_is_kept_when_one_that_succeeded_is_dropped(tmp_path):
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, keep=(60, GIB), failed=(2 * DAY_S, GIB), retention_ms=clock)
    await journal.open()
    await end_some(journal, "bad", State.FAILED, 3)
    await end_some(journal, "good", State.SUCCEEDED, 3)
    await let_a_day_pass(journal, clock)
    assert kept(tmp_path) == ["", "bad"]
    clock.ms = 3 * DAY_S * 1_000
    await journal.update_history()
    assert kept(tmp_path) == [""]
    await journal.close(clean=True)
    assert check_journal(tmp_path / "up.journal").problems == []


async def fill_up(folder, failed_bytes: int, bad: int) -> tuple[int, int]:
    """Write failed runs, then more than a megabyte of others.

    Returns how many failed runs are kept, and how many runs in all.
    """
    journal = sqlite_journal(folder, keep=(DAY_S, 1 << 20), failed=(DAY_S, failed_bytes))
    await journal.open()
    await end_some(journal, "bad", State.FAILED, bad)
    for n in range(3):
        await end_some(journal, f"good-{n}", State.SUCCEEDED, 60)
        for _ in range(3):
            await journal.update_history()
    await journal.close(clean=True)
    assert check_journal(folder / "up.journal").problems == []
    names = [run.id for run in SqliteHistory(folder).runs(limit=1_000)]
    return sum(name.startswith("bad") for name in names), len(names)


async def test_too_many_successes_displace_no_failure(tmp_path):
    failed, in_all = await fill_up(tmp_path, 1 << 19, bad=20)
    assert failed == 20
    assert in_all < 120


async def test_failures_that_take_more_than_their_share_are_dropped_as_well(tmp_path):
    failed, _ = await fill_up(tmp_path, 1 << 17, bad=60)
    assert failed < 60


async def test_failures_are_dropped_when_nothing_else_is_left_to_drop(tmp_path):
    failed, _ = await fill_up(tmp_path, GIB, bad=150)
    assert failed < 150
