"""Failed runs are kept longer than other runs. They have a size limit of their own."""

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


async def write_runs(journal, name: str, state: State, count: int, at_ms: int = 1_000) -> None:
    """Write ``count`` runs that ended in ``state``. Their ids begin with ``name``."""
    for n in range(count):
        run_id = f"{name}-{n:03}"
        await journal.accept(entry(run_id, facts=BIG, at_ms=at_ms))
        await write(journal, begun(run_id), Settled(state, "why"), at_ms)


def names_of_runs(folder) -> list[str]:
    """Return the names with which `write_runs` wrote the runs that are in the history.

    The runs of `let_a_day_pass` have the name "".
    """
    return sorted({run.id.rpartition("-")[0] for run in SqliteHistory(folder).runs(limit=1_000)})


async def test_failed_runs_are_kept_when_successful_runs_of_the_same_age_are_deleted(tmp_path):
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, keep=(60, GIB), failed=(2 * DAY_S, GIB), retention_ms=clock)
    await journal.open()
    await write_runs(journal, "bad", State.FAILED, 3)
    await write_runs(journal, "good", State.SUCCEEDED, 3)
    await let_a_day_pass(journal, clock)
    assert names_of_runs(tmp_path) == ["", "bad"]
    clock.ms = 3 * DAY_S * 1_000
    await journal.update_history()
    assert names_of_runs(tmp_path) == [""]
    await journal.close(clean=True)
    assert check_journal(tmp_path / "up.journal").problems == []


async def fill_up(folder, failed_bytes: int, bad: int) -> tuple[int, int]:
    """Write ``bad`` failed runs, and then more successful runs than fit into the limit of 1 MiB.

    Returns the number of failed runs in the history afterwards, and the number of all runs.
    """
    journal = sqlite_journal(folder, keep=(DAY_S, 1 << 20), failed=(DAY_S, failed_bytes))
    await journal.open()
    await write_runs(journal, "bad", State.FAILED, bad)
    for n in range(3):
        await write_runs(journal, f"good-{n}", State.SUCCEEDED, 60)
        for _ in range(3):
            await journal.update_history()
    await journal.close(clean=True)
    assert check_journal(folder / "up.journal").problems == []
    names = [run.id for run in SqliteHistory(folder).runs(limit=1_000)]
    return sum(name.startswith("bad") for name in names), len(names)


async def test_failed_runs_are_not_deleted_to_make_room_for_successful_runs(tmp_path):
    failed, total = await fill_up(tmp_path, 1 << 19, bad=20)
    assert failed == 20
    assert total < 120


async def test_failed_runs_are_deleted_if_they_exceed_their_own_limit(tmp_path):
    failed, _ = await fill_up(tmp_path, 1 << 17, bad=60)
    assert failed < 60


async def test_failed_runs_are_deleted_to_make_room_if_there_are_no_other_runs_to_delete(tmp_path):
    failed, _ = await fill_up(tmp_path, GIB, bad=150)
    assert failed < 150
