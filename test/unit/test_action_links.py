"""Which actions a page offers for a run, and what a page says after one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.cause_words import meaning_of
from fractal_rm.domain.possible_actions import Offer, offered_actions
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import RunSummary
from fractal_rm.web.pages.actions.action_links import action_links
from fractal_rm.web.pages.actions.bulk_links import bulk_links
from fractal_rm.web.pages.frame.notices import Notice, notice_in, without_notice

DOCS = Path(__file__).parents[2] / "docs"
RUN = "01M872C587MC9CTEMPDVW2QE67"


def paths(state: State, flow: str | None = "1", parent: str | None = None) -> list[str]:
    run = RunSummary(RUN, flow, state, "", "mqtt", None, 0, None, "up", parent)
    return [each.path.removeprefix(f"runs/{RUN}/") for each in action_links(run)]


@pytest.mark.parametrize(
    ("state", "offered"),
    [
        (State.ACCEPTED, ["cancel"]),
        (State.RUNNING, ["cancel"]),
        (State.OFFERED, ["decide-offer"]),
        (State.PARKED, ["release", "cancel"]),
        (State.SUCCEEDED, ["replay"]),
        (State.FAILED, ["replay", "discard"]),
        (State.UNKNOWN, ["decide-step", "replay", "discard"]),
        (State.HANDED_OFF, []),
        (State.DEAD, ["replay", "discard"]),
        (State.CANCELLED, ["replay"]),
        (State.EXPIRED, ["replay", "discard"]),
        (State.SUPERSEDED, ["replay"]),
    ],
)
def test_each_state_offers_what_can_be_done(state, offered):
    assert paths(state) == offered


def test_a_run_of_a_run_step_is_cancelled_and_repeated_with_the_run_above_it():
    assert paths(State.RUNNING, parent="x") == []
    assert paths(State.FAILED, parent="x") == ["discard"]


def test_a_message_that_never_became_a_run_is_sent_not_repeated():
    assert paths(State.DEAD, flow=None) == [
        f"dead/{RUN}/edit", f"dead/{RUN}/send", f"dead/{RUN}/discard",
    ]  # fmt: skip


def test_what_was_handled_is_not_discarded_again():
    assert Offer.DISCARD not in offered_actions(State.FAILED, handled=True)


def test_a_page_says_only_what_is_in_the_fixed_set():
    assert notice_in("notice=released").text == "The run is released, and goes on."
    assert notice_in("notice=%3Cb%3EPay%20now") is None
    assert notice_in("other=released") is None
    assert all(notice_in(f"notice={each.value}") for each in Notice)


def test_links_back_to_a_page_leave_its_notice_out():
    assert without_notice("state=failed&notice=released&flow=1") == "state=failed&flow=1"


def test_the_meanings_of_causes_are_those_of_the_documentation():
    for line in (DOCS / "reference/causes.md").read_text().splitlines():
        cell = re.match(r"\| `([a-z-]+)` \| (.*) \|$", line)
        if cell:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell[2]).replace("`", "")
            assert meaning_of(cell[1]) == text
    assert all(meaning_of(cause.value) for cause in Cause if cause is not Cause.OTHER)


@pytest.mark.parametrize(
    ("states", "labels"),
    [
        (None, ["Replay all in trouble", "Discard all in trouble", "Cancel all"]),
        ((State.FAILED,), ["Replay all", "Discard all"]),
        ((State.SUCCEEDED,), ["Replay all"]),
        ((State.PARKED,), ["Release all", "Cancel all"]),
        ((State.RUNNING, State.ACCEPTED), ["Cancel all"]),
        ((State.HANDED_OFF,), []),
    ],
)
def test_a_list_of_runs_offers_what_applies_to_all_of_them(states, labels):
    links = bulk_links(RunFilter(flow="1", states=states, since_ms=5))
    assert [label for label, _ in links] == labels
    assert all("flow=1" in query and "since=5" in query for _, query in links)


def test_runs_that_took_long_have_ended_and_are_not_offered_to_be_cancelled():
    labels = [label for label, _ in bulk_links(RunFilter(slower_ms=1_000))]
    assert labels == ["Replay all in trouble", "Discard all in trouble"]


def test_a_list_without_conditions_offers_no_action_on_all_runs():
    assert bulk_links(RunFilter()) == []
    assert bulk_links(RunFilter(handled=False)) == []
