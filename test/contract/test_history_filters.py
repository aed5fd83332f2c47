"""Every filter, in random combinations, finds the runs that a plain loop over all runs finds."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from contextlib import closing
from itertools import count
from pathlib import Path
from random import Random

import msgspec
import pytest
from disk_journals import sqlite_journal
from test_history_kills import store_at

from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.log.recent_updates import RecentUpdates
from fractal_rm.adapters.log.run_updates import RunStart, RunUpdate, RunUpdates
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.read import connection
from fractal_rm.adapters.sqlite.read.live_runs import LiveRuns
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Accepted, Dead, Discarded, Placed, Settled, StepFailed
from fractal_rm.domain.flow import Call, Flow, Method, flow_version
from fractal_rm.domain.run import Run
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.engine.ports import Handled, NewRun, RunSummary, WrongCursor
from fractal_rm.testing.journal import entry, write

FLOWS = {
    name: Flow(name, steps=(Call(1, "boiler", "e", Method.GET), Call(2, "pump", "e", Method.GET)))
    for name in ("1", "2", "rare")
}
REASONS = ["timed out after 21 ms", "Straße 7 closed", "answered 503: busy", "x" * 250 + "end 9"]
TEXTS = ["timed OUT", "after 2", "STRASSE", "503", "END", "#", "7 c", "nothing", "x" * 201]
CAUSES = [Cause.TIMED_OUT, Cause.STATUS]


def plainly_matches(wanted: RunFilter, run: RunSummary) -> bool:
    """The meaning of a filter, as its documentation says it."""
    about_trouble = any(each is not None for each in (wanted.component, wanted.cause, wanted.text))
    conditions = [
        not about_trouble or run.state in TROUBLE_STATES,
        wanted.flow is None or run.flow == wanted.flow,
        wanted.states is None or run.state in wanted.states,
        wanted.component is None or run.component == wanted.component,
        wanted.cause is None or run.cause == wanted.cause,
        wanted.node is None or (run.node or "here") == wanted.node,
        wanted.source is None or run.source == wanted.source,
        wanted.since_ms is None or wanted.since_ms <= run.accepted_ms,
        wanted.until_ms is None or run.accepted_ms < wanted.until_ms,
        wanted.text is None or wanted.text.casefold() in run.reason.casefold(),
        wanted.handled is None or (run.handled is not None) == wanted.handled,
        wanted.slower_ms is None
        or (run.settled_ms is not None and run.settled_ms - run.accepted_ms >= wanted.slower_ms),
        wanted.dead_letters is None or (run.flow is None) == wanted.dead_letters,
    ]
    return all(conditions)


def random_filter(random: Random, runs: list[RunSummary]) -> RunFilter:
    """A filter with a few random conditions."""
    times = [run.accepted_ms for run in runs]
    durations = [0, *(run.settled_ms - run.accepted_ms for run in runs if run.settled_ms)]
    values = {
        "flow": lambda: random.choice(["1", "2", "rare", "none"]),
        "states": lambda: tuple(random.sample([each for each in State if each.text != "new"], 3)),
        "component": lambda: random.choice(["boiler", "pump", "none"]),
        "cause": lambda: random.choice(["timed-out", "status", "none"]),
        "node": lambda: random.choice(["here", "5", "none"]),
        "source": lambda: random.choice(["mqtt", "rest", "none"]),
        "since_ms": lambda: random.choice([*times, min(times), -(10**30)]),
        "until_ms": lambda: random.choice([*times, max(times), 10**30]),
        "text": lambda: random.choice(TEXTS),
        "handled": lambda: random.random() < 0.5,
        "dead_letters": lambda: random.random() < 0.2,
        "slower_ms": lambda: random.choice([0, 1, *durations, max(durations) + 1, 10**30]),
    }
    names = random.sample(sorted(values), random.choice([0, 1, 1, 2, 2, 3]))
    return RunFilter(**{name: values[name]() for name in names})


def all_pages(history: SqliteHistory, wanted: RunFilter, **options) -> list[str]:
    """The ids of all runs that a filter finds, following the cursors."""
    ids, cursor = [], None
    for page in count():
        found = history.find(wanted, cursor=cursor, **options)
        assert found.unreadable == []
        assert len(found.runs) <= options["limit"]
        ids += [run.id for run in found.runs]
        if found.next is None:
            return ids
        cursor = found.next
        assert page < 5_000
    raise AssertionError


def check_filters(history: SqliteHistory, runs: list[RunSummary], random: Random, times: int):
    """Compare some random filters with the plain loop."""
    for _ in range(times):
        wanted = random_filter(random, runs)
        matching = [run for run in runs if plainly_matches(wanted, run)]
        expected = sorted(run.id for run in matching)
        limit = max(random.choice([1, 7, 50, 1_000]), len(expected) // 20)
        within_s = random.choice([0.0, 10.0])
        found = all_pages(history, wanted, limit=limit, within_s=within_s)
        assert sorted(found) == expected, wanted
        found = all_pages(history, wanted, limit=limit, oldest_first=True, within_s=within_s)
        assert sorted(found) == expected, wanted
        number = history.count(wanted, within_s=10)
        assert (number.number, number.is_exact) == (len(expected), True), wanted
        groups = history.failures(wanted, within_s=10).groups
        in_trouble = [run for run in matching if run.state in TROUBLE_STATES]
        assert sum(group.count for group in groups) == len(in_trouble), wanted
        for group in groups:
            members = [run for run in in_trouble if run.id == group.newest]
            assert [(run.state, run.flow, run.component, run.reason) for run in members] == [
                (group.state, group.flow, group.component, group.reason)
            ]


class Writer:
    """Writes random runs to journals, and remembers what their lists must contain."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.runs: dict[str, RunSummary] = {}
        self.at_ms = 1_700_000_000_000
        self.open: dict[str, Run] = {}

    def _next(self) -> str:
        jump_ms = self.random.choice([1_000] * 9 + [-600_000])  # the clock may be set back
        self.at_ms += jump_ms
        return f"{len(self.runs):08}"

    async def dead_letter(self, journal) -> None:
        run_id = self._next()
        fact = Dead("malformed", "not JSON at byte 7", "mqtt", b"{")
        await journal.accept(NewRun(run_id, None, self.at_ms, (fact,), State.DEAD, fact.reason))
        self.runs[run_id] = RunSummary(
            run_id, None, State.DEAD, fact.reason, "mqtt", None, self.at_ms, self.at_ms,
            journal.name, cause="malformed",
        )  # fmt: skip

    async def begin(self, journal, replays: str | None = None) -> str:
        run_id, flow = self._next(), FLOWS[self.random.choice(["1"] * 5 + ["2"] * 5 + ["rare"])]
        source = "replay" if replays else self.random.choice(["mqtt", "rest"])
        more = {"replays": replays, "actor": "anna"} if replays else {}
        first = Accepted(flow.id, flow_version(flow), msgspec.Raw(b"1"), source, **more)
        await journal.accept(entry(run_id, flow=flow, facts=(first,), at_ms=self.at_ms))
        run = self.open[run_id] = Run(run_id, flow, self.at_ms)
        run.apply(first)
        self.runs[run_id] = RunSummary(
            run_id, flow.id, State.ACCEPTED, "", source, None, self.at_ms, None, journal.name,
            replays=replays,
        )  # fmt: skip
        if replays:
            self._set_handled(replays, Handled(run_id, self.at_ms, "anna"))
        return run_id

    async def go_on(self, journal, run_id: str) -> None:
        """Place a run, or end it."""
        run, random = self.open[run_id], self.random
        if random.random() < 0.3 and run.state is State.ACCEPTED:
            node = random.choice([None, "5"])
            await write(journal, run, Placed(node, "placed"), at_ms=self.at_ms)
            self._replace(run_id, reason="placed", node=node)
            return
        del self.open[run_id]
        component = cause = None
        reason = run.reason
        state = random.choice([State.SUCCEEDED] * 3 + [State.FAILED] * 3 + [State.CANCELLED])
        if state is State.FAILED:
            reason, cause, step = (
                random.choice(REASONS),
                random.choice(CAUSES),
                random.randint(1, 2),
            )
            component = ["boiler", "pump"][step - 1]
            failed = StepFailed(step, 1, reason, final=True, cause=cause)
            await write(journal, run, failed, at_ms=self.at_ms)
            await write(journal, run, Settled(state, reason, cause), at_ms=self.at_ms)
        else:
            await write(journal, run, Settled(state), at_ms=self.at_ms)
        self._replace(
            run_id, state=state, reason=reason, settled_ms=self.at_ms, component=component,
            cause=cause and cause.value,
        )  # fmt: skip

    async def discard(self, journal, run_id: str) -> None:
        run = Run(run_id, Flow(""), 0, state=self.runs[run_id].state)
        await write(journal, run, Discarded("bela"), at_ms=self.at_ms)
        self._set_handled(run_id, Handled(None, self.at_ms, "bela"))

    def _set_handled(self, run_id: str, handled: Handled) -> None:
        """Of several, the one with the latest time is listed."""
        old = self.runs[run_id].handled
        if old is None or handled.at_ms >= old.at_ms:
            self._replace(run_id, handled=handled)

    def _replace(self, run_id: str, **values) -> None:
        self.runs[run_id] = msgspec.structs.replace(self.runs[run_id], **values)

    async def write_some(self, journals, times: int) -> None:
        for _ in range(times):
            journal, random = self.random.choice(journals), self.random
            own_open = [each for each in self.open if self.runs[each].journal == journal.name]
            ended = [
                run.id for run in self.runs.values()
                if run.settled_ms and run.handled is None and run.journal == journal.name
            ]  # fmt: skip
            action = random.random()
            if action < 0.05:
                await self.dead_letter(journal)
            elif action < 0.1 and ended:
                await self.begin(journal, replays=random.choice([
                    run.id for run in self.runs.values() if run.settled_ms
                ]))  # fmt: skip
            elif action < 0.13 and ended:
                await self.discard(journal, random.choice(ended))
            elif action < 0.6 and own_open:
                await self.go_on(journal, random.choice(own_open))
            else:
                await self.begin(journal)


@pytest.mark.parametrize("own", [[], ["api", "mqtt"], ["mqtt"]], ids=["logs", "memory", "both"])
async def test_any_filter_over_two_journals_and_what_they_lack_finds_exactly_the_matching_runs(
    tmp_path, own
):
    """Journals of another process are read from their logs, ``own`` ones from memory."""
    seed = len(own)
    random = Random(seed)
    writer, journals = Writer(random), []
    for name in ("api", "mqtt"):
        journal = sqlite_journal(tmp_path, name)
        journal.name = name
        await journal.open()
        journals.append(journal)
    history = SqliteHistory(tmp_path)
    for journal in journals:
        if journal.name in own:
            history.read_memory_of(tmp_path / f"{journal.name}.journal", journal.unprojected)
    for step in range(6):
        await writer.write_some(journals, 50)
        for journal in journals:
            await journal.wait_durable()
            if random.random() < 0.5 and step < 5:
                await journal.update_history(open_runs=random.random() < 0.5)
        runs = list(writer.runs.values())
        found = {run.id: run for run in history.find(limit=1_000, within_s=10).runs}
        assert found == writer.runs
        check_filters(history, runs, random, 5)
        other = SqliteHistory(tmp_path)  # it reads the logs
        for run_id in random.sample(sorted(writer.runs), 20):
            assert history.run(run_id) == other.run(run_id)
            assert history.outline(run_id) == other.outline(run_id)
        other.close()
    for journal in journals:
        await journal.close(clean=True)
    check_filters(history, list(writer.runs.values()), random, 15)
    history.close()


async def test_questions_during_writes_and_copies_miss_no_run_and_count_none_twice(tmp_path):
    journal = sqlite_journal(tmp_path, "up")
    journal.name = "up"
    await journal.open()
    history = SqliteHistory(tmp_path)
    history.read_memory_of(tmp_path / "up.journal", journal.unprojected)
    writer, ended, counts = Writer(Random(3)), threading.Event(), []

    def ask() -> None:
        while not ended.is_set():
            least = len(writer.runs) - 1  # the newest may not be written yet
            number = history.count(within_s=10).number
            found = [run.id for run in history.find(limit=5_000, within_s=10).runs]
            counts.append((least, number, len(found), len(set(found))))

    asking = asyncio.create_task(asyncio.to_thread(ask))
    for round_ in range(60):
        await writer.write_some([journal], 20)
        if round_ % 3:
            await journal.update_history(open_runs=round_ % 2 == 0)
    ended.set()
    await asking
    await journal.close(clean=True)
    history.close()

    assert len(counts) > 5
    for least, number, found, different in counts:
        assert least <= number <= found == different <= len(writer.runs)


async def test_while_the_history_lacks_many_runs_questions_within_a_second_see_one_moment(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(connection, "MANY", 5)
    journal = sqlite_journal(tmp_path, "up")
    journal.name = "up"
    await journal.open()
    history = SqliteHistory(tmp_path)
    history.read_memory_of(tmp_path / "up.journal", journal.unprojected)
    writer = Writer(Random(1))
    for _ in range(6):
        await writer.begin(journal)
    assert len(history.find().runs) == 6

    newest = await writer.begin(journal)

    assert history.run(newest) is not None  # a run by its id is as it is now
    assert len(history.find().runs) == 7
    newer = await writer.begin(journal)
    assert newer not in [run.id for run in history.find().runs]
    while newer not in [run.id for run in history.find().runs]:  # it ends by itself
        await asyncio.sleep(0.05)
    await journal.close(clean=True)
    history.close()


async def test_questions_are_answered_from_the_log_if_the_positions_of_the_history_are_lost(
    tmp_path,
):
    journal = sqlite_journal(tmp_path, "up")
    journal.name = "up"
    await journal.open()
    writer = Writer(Random(1))
    ended = await writer.begin(journal)
    await journal.update_history()
    with closing(sqlite3.connect(tmp_path / "up.journal")) as db, db:
        db.execute("DELETE FROM meta WHERE name = 'projected'")
    history = SqliteHistory(tmp_path)
    history.read_memory_of(tmp_path / "up.journal", journal.unprojected)

    assert [run.id for run in history.find().runs] == [ended]

    history.close()
    journal.crash()


def test_a_run_that_is_being_copied_has_what_was_written_about_it_since():
    recent, version = RecentUpdates(), flow_version(FLOWS["1"])
    first, at = Accepted("1", version, msgspec.Raw(b"1"), "mqtt"), Projected(0, 0)
    recent.begin(at)
    update = RunUpdate("1", [(1, first)], State.FAILED, "busy", settled_ms=2)
    recent.current.begin(update, RunStart("1", version, "mqtt", 1, None, "", 0))
    recent.take_ended(Projected(0, 9))
    recent.current.add_after_end("1", (3, Discarded("anna")))

    live = LiveRuns("up", recent.unprojected(), at, lambda row: row)

    facts, _ = live.whole_run("1")
    assert [each.fact for each in facts] == [first, Discarded("anna")]
    assert live.new_ids(RunFilter()) == ["1"]
    assert list(live.handled()) == [("1", Handled(None, 3, "anna"))]


def large_history(folder: Path, runs: int) -> list[RunSummary]:
    """Write a history of several blocks. The clock is set back and forward; open runs remain."""
    random, updates, expected = Random(5), RunUpdates(), []
    version = flow_version(FLOWS["1"])
    at_ms = 1_700_000_000_000
    for n in range(runs):
        at_ms += random.choice([1_000] * 2_000 + [-3_600_000, 7_200_000])
        name = "rare" if n % 5_000 == 77 else random.choice("12")
        state = random.choice([State.SUCCEEDED] * 30 + [State.FAILED, State.HANDED_OFF])
        is_open = n % 3_001 == 0
        state = State.RUNNING if is_open else state
        failed, node = state is State.FAILED, "5" if state is State.HANDED_OFF else None
        reason = random.choice(REASONS) if failed else ""
        cause, step = (
            (random.choice(CAUSES).value, random.randint(1, 2)) if failed else (None, None)
        )
        run_id, settled_ms = f"{n:08}", None if is_open else at_ms + 5
        first = Accepted(name, version, msgspec.Raw(b"1"), "mqtt")
        update = RunUpdate(
            run_id, [msgspec.Raw(msgspec.json.encode((at_ms, first)))], state, reason, node,
            settled_ms, flow=name if failed else None, cause=cause, failed_step=step,
        )  # fmt: skip
        updates.begin(update, RunStart(name, version, "mqtt", at_ms, None, "", 0))
        component = None if step is None else ["boiler", "pump"][step - 1]
        expected.append(RunSummary(
            run_id, name, state, reason, "mqtt", node, at_ms, settled_ms, "up", None, component,
            cause,
        ))  # fmt: skip
    updates.flows[version] = msgspec.json.encode(FLOWS["1"])
    store = store_at(folder / "up.journal")
    store.open()
    store.project(updates, Projected(0, 0))
    store.close(clean=True)
    return expected


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, list[RunSummary]]:
    folder = tmp_path_factory.mktemp("large")
    return folder, large_history(folder, 20_000)


def test_any_filter_over_several_blocks_finds_exactly_the_matching_runs(large):
    folder, runs = large
    history = SqliteHistory(folder)
    check_filters(history, runs, Random(1), 10)
    history.close()


def test_a_list_of_a_rare_flow_reads_few_rows(large, monkeypatch):
    folder, runs = large
    statements = []
    connect = sqlite3.connect

    def traced(*args, **options):
        db = connect(*args, **options)
        db.set_trace_callback(statements.append)
        return db

    monkeypatch.setattr(sqlite3, "connect", traced)
    history = SqliteHistory(folder)
    for wanted, most_windows in [
        (RunFilter(flow="rare"), 4),
        (RunFilter(flow="none"), 0),
        (RunFilter(states=(State.CANCELLED,)), 0),
        (RunFilter(text="busy", component="pump"), 3),
        (RunFilter(since_ms=max(run.accepted_ms for run in runs)), 5),
    ]:
        statements.clear()
        found = history.find(wanted, limit=10)
        assert [plainly_matches(wanted, run) for run in found.runs] == [True] * len(found.runs)
        windows = [
            text for text in statements if text.startswith("SELECT no, id") and "no BE" in text
        ]
        assert len(windows) <= most_windows, wanted
    history.close()


def test_runs_in_damaged_rows_are_reported_and_all_others_are_found(large, tmp_path):
    folder, runs = large
    path = tmp_path / "up.journal"
    shutil.copy(folder / "up.journal", path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE runs SET reason = 'changed' WHERE id IN ('00000500', '00019000')")
        db.commit()
    history = SqliteHistory(tmp_path)
    found, cursor, damage = [], None, []
    while True:
        page = history.find(RunFilter(source="mqtt"), cursor=cursor, limit=5_000, within_s=10)
        found += [run.id for run in page.runs]
        damage += page.unreadable
        cursor = page.next
        if cursor is None:
            break
    assert len(found) == len(set(found)) == len(runs) - 2
    assert sorted(damage) == [
        f"up: the row of run {run_id} does not match its checksum"
        for run_id in ("00000500", "00019000")
    ]
    history.close()


@pytest.mark.parametrize(
    "wanted", [RunFilter(), RunFilter(flow="2"), RunFilter(states=(State.FAILED,)),
               RunFilter(node="5"), RunFilter(since_ms=1_700_000_000_000)],
)  # fmt: skip
def test_around_pages_of_the_file_that_cannot_be_read_all_other_runs_are_found(
    large, tmp_path, wanted
):
    folder, runs = large
    content = bytearray((folder / "up.journal").read_bytes())
    random = Random(3)
    for page in random.sample(range(10, len(content) // 4_096), 8):
        content[page * 4_096 : (page + 1) * 4_096] = bytes(4_096)
    (tmp_path / "up.journal").write_bytes(content)
    history = SqliteHistory(tmp_path)
    matching = {run.id for run in runs if plainly_matches(wanted, run)}
    found, cursor, damage = set(), None, []
    while True:
        page = history.find(wanted, cursor=cursor, limit=5_000, within_s=10)
        assert not found.intersection(run.id for run in page.runs)
        found |= {run.id for run in page.runs}
        damage += page.unreadable
        cursor = page.next
        if cursor is None:
            break
    assert found <= matching
    assert len(found) > len(matching) * 0.9
    assert found == matching or damage
    history.close()


def test_a_cursor_of_another_question_or_a_wrong_text_is_refused(large):
    folder, _ = large
    history = SqliteHistory(folder)
    cursor = history.find(RunFilter(flow="1"), limit=2).next
    assert cursor is not None
    assert history.find(RunFilter(flow="1"), limit=2, cursor=cursor).runs
    for text in ["", "x", "é", cursor[:-3], cursor + "A" * 5_000, "bnVsbA", "WzEsIHt9XQ"]:
        with pytest.raises(WrongCursor, match=r"begin again|longer"):
            history.find(RunFilter(flow="1"), limit=2, cursor=text)
    with pytest.raises(WrongCursor, match="other conditions"):
        history.find(RunFilter(flow="2"), limit=2, cursor=cursor)
    with pytest.raises(WrongCursor, match="another order"):
        history.find(RunFilter(flow="1"), limit=2, cursor=cursor, oldest_first=True)
    assert history.find(RunFilter(text="\ud800")).runs == []
    history.close()


def test_a_question_ends_at_its_deadline_and_says_how_far_it_has_searched(large):
    folder, runs = large
    ticks = count()
    history = SqliteHistory(folder, monotonic_s=lambda: float(next(ticks)))
    wanted = RunFilter(source="none")
    found = history.find(wanted, within_s=8)
    assert (found.runs, found.next is None) == ([], False)
    times = [run.accepted_ms for run in runs]
    assert found.searched_to_ms in times
    searched = [found.searched_to_ms]
    while found.next is not None:
        found = history.find(wanted, cursor=found.next, within_s=8)
        searched.append(found.searched_to_ms)
    assert len(searched) > 2
    assert searched[-1] is None
    counted = history.count(wanted, within_s=8)
    assert (counted.number, counted.is_exact) == (0, False)
    assert counted.searched_to_ms in times
    history.close()
