"""A person holds a flow back, lets it go on, and tries it with its last payload."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from page_stage import page_stage


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A node on its first day that tests may change."""
    with page_stage(tmp_path_factory.mktemp("line"), "empty", 0) as stage:
        yield stage


def test_a_flow_is_paused_resumed_and_tried_with_its_last_payload_to_the_end(line, open_tab):
    tab = open_tab(line.url)
    tab.sign_in(line.token())
    line.node.trigger("2", {"line": 17}, ask_balancer=True, Prefer="wait=30")

    page = tab.go()
    page.get_by_role("link", name="Flows").click()
    page.get_by_role("link", name="record the temperature").click()
    page.get_by_role("link", name="Pause", exact=True).click()
    expect(page.get_by_text("No run of flow 2 begins")).to_be_visible()
    page.get_by_role("button", name="Pause flow 2").click()
    expect(page.get_by_text("Paused by token anna")).to_be_visible()
    line.node.trigger("2", {"line": 18}, ask_balancer=True)
    expect(page.get_by_text("1 run waits")).to_be_visible()  # the page reads itself again

    page.get_by_role("link", name="Resume").click()
    page.get_by_role("button", name="Resume flow 2").click()
    expect(page.get_by_role("status")).to_contain_text("The flow is resumed")
    expect(page.get_by_text("Paused by")).to_have_count(0)

    page.get_by_role("link", name="Try it").click()
    payload = page.get_by_label("Payload", exact=True)
    expect(payload).to_have_value('{\n  "line": 18\n}')
    payload.fill('{"line": 19}')
    page.get_by_role("button", name="Start the run").click()
    expect(page.get_by_role("status")).to_contain_text("The run is started")
    expect(page.locator(".head .state")).to_contain_text("succeeded")
    run = page.url.partition("?")[0].rpartition("/")[2]
    assert line.node.history.run(run).summary.source == "command"


def test_the_picture_of_a_flow_fits_on_a_phone_and_leads_to_components(line, open_tab):
    page = open_tab(line.url, size=(390, 844)).go("flows/1")
    drawn = page.get_by_role("group", name="Picture of flow 1", exact=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert drawn.evaluate("each => each.getBoundingClientRect().width < innerWidth")
    page.get_by_text("The steps as a list").click()
    expect(page.get_by_role("row", name="2 POST detector detect")).to_be_visible()
    drawn.get_by_role("link", name="detector detect").click()
    page.wait_for_url("**/components/detector")
