"""The link between two machines is cut, or a node is stopped, before, during and after an offer.

The machines are network namespaces. The wall clock of the second node is an hour ahead.
"""

from __future__ import annotations

import shutil
import signal
from contextlib import contextmanager

import pytest

from fractal_rm.domain.facts import Offered, OfferInDoubt
from fractal_rm.domain.state import State
from links.pair import joined_pair
from machines import machine
from nodes import wait_until
from open_files import MAY_OPEN_FEW
from sites import FIRST, SECOND, assert_handed_off
from wall_clock import fake_clock_command

HOUR_S = 3_600


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    machines = machine(f"{FIRST}/24"), machine(f"{SECOND}/24")
    with joined_pair(machines, folder, offer_limit_s=1) as joined:
        second = joined.sites[1]
        second.node.command_prefix = [*fake_clock_command(FAKETIME=f"+{HOUR_S}"), *MAY_OPEN_FEW]
        joined.set_access(by_certificate=second)
        joined.start()
        yield joined
        joined.stop_without_problems()


@pytest.fixture
def first(pair):
    return pair.sites[0]


@pytest.fixture
def second(pair):
    return pair.sites[1]


def cut(site) -> None:
    site.machine.ip("link", "set", "cable", "down")


def join(site) -> None:
    site.machine.ip("link", "set", "cable", "up")


@contextmanager
def stopped(site):
    """Stop the process of a node, until the end of the block."""
    site.node.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        site.node.process.send_signal(signal.SIGCONT)


def offer_to_stopped(sender, receiver) -> str:
    """Send a trigger, and wait until its offer has arrived at a stopped node. Returns the run."""
    before = receiver.unread_bytes()
    run = sender.send_trigger()
    wait_until(lambda: receiver.unread_bytes() > before)
    return run


def doubts(site, run: str) -> list[str]:
    """Why it was not known whether the other node has a run."""
    facts = site.node.history.run(run).facts
    return [each.fact.reason for each in facts if isinstance(each.fact, OfferInDoubt)]


def test_a_run_with_a_time_limit_is_handed_off_both_ways_although_the_clocks_differ(pair):
    for sender, receiver in (pair.sites, pair.sites[::-1]):
        status, _, answer = sender.machine.call(
            sender.node.trigger, ask_balancer=True, Fractal_Time_Left="60000"
        )
        assert status == 200
        sender.wait_for_state(answer["run"], State.HANDED_OFF)
        receiver.wait_for_state(answer["run"], State.SUCCEEDED)


@pytest.mark.parametrize("cut_at", ["sender", "receiver"])
def test_if_the_link_is_down_before_an_offer_later_runs_are_executed_by_their_own_node(
    pair, first, second, cut_at
):
    """The first offer is sent on an open connection, so it may arrive later."""
    assert_handed_off(first, second)
    side = first if cut_at == "sender" else second
    cut(side)
    try:
        sent_run = first.send_trigger()
        wait_until(lambda: doubts(first, sent_run))
        details = first.wait_for_state(first.send_trigger(), State.SUCCEEDED)
    finally:
        join(side)
    run = details.summary.id
    assert "node 2 could not be reached" in str(details.facts)
    assert not any(isinstance(each.fact, Offered) for each in details.facts)
    assert (first.executions(run), second.executions(run)) == (1, 0)
    first.wait_for_state(sent_run, State.HANDED_OFF)
    second.wait_for_state(sent_run, State.SUCCEEDED)
    assert (first.executions(sent_run), second.executions(sent_run)) == (0, 1)


def test_if_the_link_is_cut_during_an_offer_the_run_ends_once_after_the_link_is_back(first, second):
    assert_handed_off(first, second)
    with stopped(second):
        run = offer_to_stopped(first, second)
        cut(second)
    try:
        wait_until(lambda: doubts(first, run))
        assert first.node.history.run(run).summary.state is State.OFFERED
        assert first.executions(run) == 0
    finally:
        join(second)
    first.wait_for_state(run, State.HANDED_OFF)
    second.wait_for_state(run, State.SUCCEEDED)
    assert (first.executions(run), second.executions(run)) == (0, 1)


def test_if_the_link_is_cut_after_a_receipt_the_receiver_executes_the_run(first, second):
    second.components.answers["/endpoint1"] = "hang"
    run = first.send_trigger()
    first.wait_for_state(run, State.HANDED_OFF)
    cut(first)
    try:
        second.components.answers.pop("/endpoint1")
        second.components.release.set()  # the connection closes, so the call is made once more
        second.wait_for_state(run, State.SUCCEEDED)
    finally:
        join(first)
        second.components.release.clear()
    assert first.executions(run) == 0
    assert first.node.history.run(run).summary.state is State.HANDED_OFF


def test_late_answers_of_a_node_that_was_stopped_start_no_run_again(first, second):
    assert_handed_off(first, second)
    with stopped(second):
        runs = [offer_to_stopped(first, second)]
        runs += [first.send_trigger() for _ in range(4)]
        wait_until(lambda: all(doubts(first, run) for run in runs[:1]))
    for run in runs:
        wait_until(lambda run=run: first.executions(run) + second.executions(run))
        details = wait_until(
            lambda run=run: (found := first.node.history.run(run)).summary.state.final and found
        )
        at_first = details.summary.state is State.SUCCEEDED
        assert (first.executions(run), second.executions(run)) == (at_first, not at_first)
    assert second.node.history.run(runs[0]).summary.state is State.SUCCEEDED


def test_a_run_waits_if_the_node_that_may_have_taken_it_has_lost_its_state_folder(first, second):
    assert_handed_off(first, second)
    with stopped(second):
        run = offer_to_stopped(first, second)
        cut(second)
    try:
        wait_until(lambda: second.executions(run))
        second.node.kill()
        shutil.rmtree(second.node.state)
        second.start_node()
    finally:
        join(second)
    reason = "the run was offered to node 2, which has lost its state folder since"
    wait_until(lambda: any(text.startswith(reason) for text in doubts(first, run)))
    assert first.node.history.run(run).summary.state is State.OFFERED
    assert (first.executions(run), second.executions(run)) == (0, 1)
    assert_handed_off(first, second)  # the node is offered new runs


def test_a_node_with_the_id_of_its_sender_refuses_the_offer_and_the_sender_executes_the_run(
    first, second
):
    second.stop_node()
    second.node.edit("comm", node__id="1")
    second.start_node()
    details = first.wait_for_state(first.send_trigger(), State.SUCCEEDED)
    assert "both nodes have the id 1" in str(details.facts)
    assert second.node.history.run(details.summary.id) is None
