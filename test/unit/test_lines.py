"""Lines of waiting runs: turns, priorities, and runs that are removed before their turn."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.admission import FAIR_TURN
from fractal_rm.domain.flow import Flow, QueueSettings
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE
from fractal_rm.engine.queue.lines import Lines


def flow(name: str = "1", priority: int | None = None) -> Flow:
    return Flow(name) if priority is None else Flow(name, queueing=QueueSettings(priority=priority))


def always(*_: object) -> bool:
    return True


def take_all(lines: Lines, may_begin=always) -> list[str]:
    """Take all runs that may begin. Returns their ids in order."""
    order = []
    while (taken := lines.take(may_begin)) is not None:
        run, _last_attempt = taken
        order.append(run.id)
    return order


@given(st.lists(st.integers(0, 4), max_size=60))
def test_flows_take_turns_and_runs_of_a_flow_keep_their_order(flows):
    lines = Lines()
    for number, name in enumerate(flows):
        lines.add(Run(f"{name}/{number}", flow(str(name)), 0))
    order = take_all(lines)
    assert len(order) == len(flows)
    begun_by_flow = Counter()
    for run_id in order:
        name, number = run_id.split("/")
        assert flows[: int(number)].count(int(name)) == begun_by_flow[name]
        begun_by_flow[name] += 1
        waiting_flows = {
            other for other in map(str, flows) if begun_by_flow[other] < flows.count(int(other))
        }
        assert all(begun_by_flow[name] - begun_by_flow[other] <= 1 for other in waiting_flows)


priorities = st.dictionaries(st.integers(0, 30), st.integers(0, 9), min_size=1, max_size=12)


@given(priorities, st.integers(1, 300))
def test_seven_of_eight_turns_go_to_the_highest_priority(priority_by_line, turns):
    lines, rank = Lines(), {str(name): priority for name, priority in priority_by_line.items()}
    for name, priority in rank.items():
        lines.add(Run(name, flow(name, priority), 0))
    for turn in range(turns):
        head = lines.take(always)
        assert head is not None
        run, _ = head
        if turn % FAIR_TURN:
            assert rank[run.id] == max(rank.values())
        lines.add(run)  # so that no line becomes empty


@given(priorities)
def test_every_line_has_a_turn_at_any_priority(priority_by_line):
    lines = Lines()
    for name, priority in priority_by_line.items():
        lines.add(Run(str(name), flow(str(name), priority), 0))
    levels = len({*priority_by_line.values(), QueueSettings().priority})
    turns = FAIR_TURN * levels * len(priority_by_line)
    taken_ids = set()
    for _ in range(turns):
        head = lines.take(always)
        assert head is not None
        taken_ids.add(head[0].id)
        lines.add(head[0])
    assert taken_ids == {str(name) for name in priority_by_line}


def test_a_lower_priority_gets_the_turn_if_the_first_run_of_a_line_may_not_begin():
    lines = Lines()
    lines.add(Run("urgent", flow("1", 9), 0))
    lines.add(Run("later", flow("2", 0), 0))
    assert take_all(lines, lambda run, _: run.id != "urgent") == ["later"]
    assert take_all(lines) == ["urgent"]


@pytest.mark.parametrize("last_attempt", [False, True])
def test_runs_that_have_begun_do_not_wait_for_runs_that_have_not_begun(last_attempt):
    lines = Lines()
    lines.add(Run("new", flow(), 0), last_attempt=last_attempt)
    lines.add_labelled("label", Run("labelled", flow(), 0), last_attempt=last_attempt)
    lines.add(Run("begun", flow(), 0, placement=HERE), last_attempt=last_attempt)
    assert take_all(lines, lambda run, _: run.placement is HERE) == ["begun"]


def test_runs_on_their_last_attempt_share_one_line():
    lines = Lines()
    for number, name in enumerate("121"):
        lines.add(Run(str(number), flow(name), 0), last_attempt=True)
    lines.add(Run("3", flow("1"), 0))
    assert take_all(lines, lambda _, last_attempt: not last_attempt) == ["3"]
    assert take_all(lines, lambda _, last_attempt: last_attempt) == ["0", "1", "2"]


def test_a_newer_run_takes_the_position_of_the_older_run_with_the_same_label():
    lines = Lines()
    for name in ("a1", "b1", "a2"):
        lines.add_labelled(name[0], Run(name, flow(), 0))
    assert lines.labelled("a").id == "a2"
    assert take_all(lines) == ["a2", "b1"]
    assert lines.labelled("a") is None


def test_a_newer_run_of_another_priority_joins_the_line_of_that_priority():
    lines = Lines()
    lines.add_labelled("a", Run("a1", flow("1", 1), 0))
    lines.add_labelled("b", Run("b1", flow("1", 5), 0))
    lines.add_labelled("a", Run("a2", flow("1", 9), 0))
    assert take_all(lines) == ["a2", "b1"]


steps = st.tuples(st.sampled_from(["add", "add_labelled", "remove", "take"]), st.integers(0, 5),
                  st.sampled_from([None, 0, 5, 9]))  # fmt: skip


@given(st.lists(steps, max_size=80))
def test_every_run_is_taken_or_removed_once_in_any_order_of_calls(history):
    lines, waiting, labels = Lines(), defaultdict(int), {}
    for number, (method, name, priority) in enumerate(history):
        run = Run(f"run{number}", flow(str(name), priority), 0)
        label = f"label{name}"
        if method == "add":
            lines.add(run)
            waiting[run.id] += 1
        elif method == "add_labelled":
            older = lines.labelled(label)
            if older is None:
                assert label not in labels
            else:
                assert older.id == labels[label]
                waiting[older.id] -= 1
            lines.add_labelled(label, run)
            labels[label] = run.id
            waiting[run.id] += 1
        elif method == "remove" and label in labels:
            lines.remove(label)
            waiting[labels.pop(label)] -= 1
        elif method == "take" and (taken := lines.take(always)) is not None:
            taken_run, _last_attempt = taken
            waiting[taken_run.id] -= 1
            labels = {label: run_id for label, run_id in labels.items() if run_id != taken_run.id}
    for run_id in take_all(lines):
        waiting[run_id] -= 1
    assert not any(waiting.values())
