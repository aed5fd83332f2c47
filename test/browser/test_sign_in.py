"""People sign in to the pages with a token, and sign out."""

from __future__ import annotations

import pytest

from fractal_rm.config.token_file import TokenFile
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
    page.get_by_role("button", name="Sign in").wait_for()


def test_a_wrong_token_is_refused_with_the_reason(stage, open_tab):
    page = open_tab(stage.url).go("sign-in")

    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()

    assert "The token was refused" in page.get_by_role("alert").inner_text()


def test_an_open_page_asks_to_sign_in_when_its_token_is_revoked(tmp_path, stage, open_tab):
    elsewhere = {"X-Forwarded-For": "192.0.2.7"}
    tab = open_tab(stage.url, extra_http_headers=elsewhere)
    local = open_tab(stage.url)
    local.sign_in("read")
    tab.context.add_cookies(local.context.cookies())
    page = tab.go("runs?state=failed")
    page.get_by_role("button", name="Sign out read").wait_for()

    with TokenFile(tmp_path).changing() as tokens:
        tokens[:] = [token for token in tokens if token.name != "read"]

    page.wait_for_url(lambda url: "sign-in" in url)
    assert page.url == f"{stage.url}sign-in?next=runs%3Fstate%3Dfailed"


def test_somebody_who_is_refused_reads_what_to_do(tmp_path, stage, open_tab):
    with TokenFile(tmp_path).changing() as tokens:
        tokens.clear()
    tab = open_tab(stage.url, extra_http_headers={"X-Forwarded-For": "192.0.2.7"})
    page = tab.go("runs")
    assert "fractal-rm token new NAME" in page.inner_text("main")
