"""People sign in to the pages with a token, and sign out."""

from __future__ import annotations

import pytest

from operator_stage import operator_stage


@pytest.fixture
def stage(tmp_path):
    with operator_stage(tmp_path) as stage:
        yield stage


def test_a_person_on_this_machine_reads_without_a_token_and_signs_in_to_act(stage, open_tab):
    tab = open_tab(stage.url)

    page = tab.go()
    assert page.title() == "Overview · node 1"
    page.get_by_role("link", name="Sign in").click()
    tab.page.get_by_label("Token").fill("operate")
    page.get_by_role("button", name="Sign in").click()

    page.get_by_role("button", name="Sign out operate").click()
    page.get_by_role("link", name="Sign in").wait_for()


def test_a_wrong_token_is_refused_with_the_reason(stage, open_tab):
    page = open_tab(stage.url).go("sign-in")

    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()

    assert "The token was refused" in page.get_by_role("alert").inner_text()
