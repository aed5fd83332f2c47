"""Somebody finds a failed run, and understands it, on a phone and without a mouse."""

from __future__ import annotations

import json
import time

import pytest
from playwright.sync_api import expect

from browsers import NARROW
from fractal_rm.config.token_file import TokenFile
from fractal_rm.domain.access import Scope
from fractal_rm.domain.tokens import Token, digest_of
from operator_stage import operator_stage
from written_runs import a_failure, a_success, run_id, write_runs


@pytest.fixture
def stage(tmp_path):
    now_ms = int(time.time() * 1000)
    write_runs(
        tmp_path, [a_failure(0, now_ms - 60_000), *(a_success(n, now_ms + n) for n in range(1, 60))]
    )
    with TokenFile(tmp_path).changing() as tokens:
        tokens.append(Token("all", digest_of("all"), list(Scope), 0))
    with operator_stage(tmp_path) as stage:
        yield stage


def test_a_failed_run_is_found_and_understood_on_a_phone(stage, open_tab):
    tab = open_tab(stage.url, size=NARROW)
    tab.sign_in("all")
    page = tab.go("runs")

    page.get_by_role("link", name="In trouble", exact=True).click()
    page.get_by_role("link", name=f"…{run_id(0)[-8:]}").click()

    expect(page.get_by_text("Both attempts failed: this is the last failure.")).to_be_visible()
    bars = page.get_by_role("img", name="attempt 1 failed after 90 ms: status 503: busy")
    expect(bars).to_be_visible()
    assert bars.bounding_box()["width"] > 300
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    with page.expect_download() as download:
        page.get_by_role("link", name="All 6 facts").click()
    lines = download.value.path().read_text().splitlines()
    assert [json.loads(line)["fact"]["fact"] for line in lines][-1] == "settled"


def test_a_paused_list_says_how_many_runs_are_new(stage, open_tab):
    tab = open_tab(stage.url)
    tab.sign_in("all")
    page = tab.go("runs")
    page.route(
        "**/runs/new?**",
        lambda route: route.continue_(
            url=route.request.url.rpartition("after=")[0] + f"after={run_id(40)}"
        ),
    )

    page.get_by_role("button", name="Stop refreshing").click()

    expect(page.get_by_role("link", name="19 new")).to_be_visible()


def test_conditions_are_chosen_without_scripts(stage, open_tab):
    tab = open_tab(stage.url, scripts=False)
    page = tab.go("runs")

    page.get_by_label("State").select_option("failed")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("From, UTC").fill("2020-01-01T00:00")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("row")).to_have_count(2)

    page.get_by_label("Until, UTC").fill("2020-01-02T00:00")
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_text("No runs that are failed accepted since")).to_be_visible()
