"""A page reads itself again and again, says as of when it is, and disturbs nobody."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from nodes import NodeProcess
from operator_stage import operator_stage

HIDDEN = "Object.defineProperty(document, 'hidden', {get: () => true})"
ADDED = """
<details id="more"><summary>More</summary><p>inside</p></details>
<form><input id="word" name="word"></form><p id="text">some text to select</p>"""
SELECT = "() => getSelection().selectAllChildren(document.getElementById('text'))"
SELECTED = "() => getSelection().toString()"


@pytest.fixture
def url(tmp_path):
    with operator_stage(tmp_path) as stage:
        yield stage.url


class Watched:
    """The overview in a browser, with a few things added, and a count of its refreshes.

    It refreshes at each half second. With ``clock``, time passes only with `let_pass`, which moves
    all clocks of the browser. ``change`` is applied to each refresh.
    """

    def __init__(self, tab, *, clock=False, hidden=False):
        self.page = tab.page
        self.reads = 0
        self.change = lambda text: text
        self.status = 200
        if clock:
            self.page.clock.install()
        if hidden:
            self.page.add_init_script(HIDDEN)
        self.page.route(lambda url: url == tab.url, self._answer)
        tab.go()
        self.page.locator("#pause").wait_for()

    def _answer(self, route):
        is_part = "hx-request" in route.request.headers
        self.reads += is_part
        response = route.fetch()
        text = re.sub('data-every="[^"]*"', 'data-every="0.5"', response.text())
        text = text.replace("</main>", f"{ADDED}<p id='count'>{self.reads}</p></main>")
        if is_part:
            route.fulfill(response=response, status=self.status, body=self.change(text))
        else:
            route.fulfill(response=response, body=text)

    def wait_refreshed(self):
        """Wait until a refresh that has not begun yet is on the page."""
        before = self.reads
        expect(self.page.locator("#count")).to_have_text(re.compile(f"^(?!{before}$)"))
        expect(self.page.locator("#count")).not_to_have_text(str(self.reads - 1))

    def let_pass(self, seconds: int) -> int:
        """Let time pass. Returns how many refreshes began."""
        before = self.reads
        self.page.clock.run_for(seconds * 1_000)
        return self.reads - before

    def says(self, text: str) -> None:
        """Wait until the line at the bottom says something."""
        expect(self.page.locator("#line")).to_contain_text(text)


def test_a_page_says_since_when_the_node_is_silent_and_goes_on_with_it(tmp_path, open_tab):
    node = NodeProcess(tmp_path / "n", components=1, mode="api").start()
    tab = open_tab(f"http://127.0.0.1:{node.rest}/")
    page = tab.go()
    line, health = page.locator("#line"), page.locator(".health")
    expect(health).to_be_visible()

    node.stop()

    expect(line).to_contain_text("The node does not answer. As of ")
    expect(health).to_be_hidden()
    expect(page.locator("h1")).to_have_text("Overview")  # what was read last stays
    node.start()
    expect(line).not_to_contain_text("does not answer")
    expect(health).to_be_visible()
    node.kill()


def test_a_paused_page_reads_nothing(url, open_tab):
    watched = Watched(open_tab(url), clock=True)

    watched.page.get_by_role("button", name="Stop refreshing").click()
    assert watched.let_pass(300) == 0
    watched.says("Not refreshed. As of ")
    watched.says(", 5 min ago")
    watched.page.get_by_role("button", name="Refresh again").click()
    expect(watched.page.locator("#count")).not_to_have_text("0")


def test_a_hidden_page_reads_nothing(url, open_tab):
    watched = Watched(open_tab(url), clock=True, hidden=True)

    assert watched.let_pass(300) == 0


def test_a_clock_that_is_set_changes_neither_the_refreshes_nor_the_age(url, open_tab):
    watched = Watched(open_tab(url))

    watched.page.evaluate("() => { Date.now = () => 0; }")
    watched.wait_refreshed()
    expect(watched.page.locator("#line")).not_to_contain_text("ago")


def test_a_refresh_keeps_open_details_typed_text_and_the_focus(url, open_tab):
    watched = Watched(open_tab(url))
    page = watched.page

    page.locator("summary").click()
    page.locator("#word").type("half a wo")
    watched.wait_refreshed()
    page.keyboard.type("rd")

    expect(page.locator("#word")).to_have_value("half a word")
    expect(page.locator("#more")).to_have_attribute("open", "")


def test_a_page_waits_while_text_is_selected(url, open_tab):
    watched = Watched(open_tab(url), clock=True)

    watched.page.evaluate(SELECT)
    assert watched.let_pass(60) == 0
    assert watched.page.evaluate(SELECTED) == "some text to select"
    watched.says("Not refreshed while text is selected. As of ")


def test_an_error_of_the_node_or_of_a_proxy_does_not_replace_the_page(url, open_tab):
    watched = Watched(open_tab(url))

    watched.status = 503
    watched.says("The node answers with status 503.")
    watched.status, watched.change = 200, lambda _: "<html><h1>Sign in to the Wi-Fi</h1></html>"
    watched.says("Something else answers in place of the node.")
    expect(watched.page.locator("h1")).to_have_text("Overview")


def test_after_an_update_of_the_node_the_whole_page_is_loaded_once(url, open_tab):
    watched = Watched(open_tab(url))
    page = watched.page
    watched.change = lambda text: re.sub('data-release="[^"]*"', 'data-release="new"', text)

    with page.expect_event("load"):
        pass
    loads = []
    page.on("load", lambda _: loads.append(1))
    watched.wait_refreshed()
    watched.wait_refreshed()
    assert loads == []


def test_an_update_of_the_node_does_not_delete_typed_text(url, open_tab):
    watched = Watched(open_tab(url))
    page = watched.page

    page.locator("#word").fill("an edit")
    watched.change = lambda text: re.sub('data-release="[^"]*"', 'data-release="new"', text)
    watched.wait_refreshed()
    watched.wait_refreshed()
    expect(page.locator("#word")).to_have_value("an edit")
