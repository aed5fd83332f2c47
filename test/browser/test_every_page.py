"""Every page can be read by everybody: in both themes and widths, with a keyboard, and at once."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect

from browsers import NARROW, WIDE, Tab
from operator_stage import operator_stage
from page_list import Examples, routes

AXE = (Path(__file__).parent / "axe/axe.js").read_text()
ALL = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def only(*rules: str) -> dict:
    return {"runOnly": {"type": "rule", "values": rules}}


# Few rules depend on the theme, or on the width.
CHECKS = [(WIDE, "light", ALL), (WIDE, "dark", only("color-contrast")),
          (NARROW, "dark", only("color-contrast")),
          (NARROW, "light", only("color-contrast", "target-size", "scrollable-region-focusable")),
          ]  # fmt: skip
FIRST_DAY = [(NARROW, "light", ALL)]
RUN_AXE = """async options => (await axe.run(document, options)).violations.flatMap(
    each => each.nodes.map(node => each.id + ": " + node.html.slice(0, 160)
        + (each.id == "color-contrast" ? " " + node.any[0].message : "")))"""
TOO_WIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
    [...document.querySelectorAll("body *")].filter(
        each => each.getBoundingClientRect().right > innerWidth + 1 && !each.closest(".scroll, pre")
    ).map(each => each.outerHTML.slice(0, 120)).slice(0, 3)"""
# A page that reads itself again matches these elements by their ids.
WITHOUT_ID = '() => [...document.querySelectorAll(\'#page[data-every]:not([data-every=""]) details'
WITHOUT_ID += ":not([id])')].map(each => each.outerHTML.slice(0, 120))"
HEIGHT = "() => document.documentElement.scrollHeight + 40"
FOCUS = """() => [document.activeElement.textContent.trim().replace(/ \\d+$/, ""),
    getComputedStyle(document.activeElement).outlineStyle]"""


class Answers(urllib.request.HTTPErrorProcessor):
    """Gives back every answer: a page that refuses is a page, too."""

    def http_response(self, request, response):
        return response


OPENER = urllib.request.build_opener(Answers)
FIRST_PAGE_BYTES = 60_000


@pytest.fixture
def tab(open_tab):
    """A function that opens a tab of a person who may do everything at the node of a stage."""

    def open_it(stage, **options) -> Tab:
        tab = open_tab(stage.url, **options)
        tab.page.add_init_script(AXE)
        tab.sign_in(stage.token(name=f"anna{len(options)}"))
        return tab

    return open_it


def problems_of(tab: Tab, address: str, checks=CHECKS) -> list[str]:
    """What is wrong with a page. Axe finds most of it; ``checks`` says with which rules."""
    page = tab.go(address)
    found = []
    for size, theme, rules in checks:
        page.emulate_media(color_scheme=theme)
        page.set_viewport_size({"width": size[0], "height": size[1]})
        # The whole page is in sight, so the line at the bottom covers nothing.
        page.set_viewport_size({"width": size[0], "height": page.evaluate(HEIGHT)})
        where = f"{size[0]} px, {theme}"
        found += [f"{where}: {each}" for each in page.evaluate(RUN_AXE, rules)]
        found += [f"{where}: does not fit: {each}" for each in page.evaluate(TOO_WIDE)]
    found += [f"has no id: {each}" for each in page.evaluate(WITHOUT_ID)]
    return [f"{address or 'overview'}: {each}" for each in found]


# These tests visit all pages, because each process of tests that has one of them starts a node.


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_everybody_can_read_every_page(broken_line, tab):
    examples = Examples(broken_line)
    one_tab = tab(broken_line)

    problems = [each for path in routes() for each in problems_of(one_tab, examples.of(path))]

    assert not problems, "\n".join(problems)


def test_no_page_needs_scripts_to_be_read(broken_line):
    examples = Examples(broken_line)
    for path in routes():
        address = broken_line.url + examples.of(path)
        with OPENER.open(address) as response:
            text = response.read().decode()
        main = text.partition("<main")[2].partition("</main>")[0]
        assert "<h1" in main, address
        assert " hidden" not in re.sub(r'<input type="hidden"|aria-hidden', "", main), address


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_list_can_be_read_on_the_first_day(empty_line, tab):
    one_tab = tab(empty_line)
    lists = [path[1:] for path in routes() if "{" not in path]

    problems = [each for path in lists for each in problems_of(one_tab, path, FIRST_DAY)]

    assert not problems, "\n".join(problems)


def test_the_first_page_needs_few_bytes(broken_line, open_tab):
    tab = open_tab(broken_line.url)
    received = []
    network = tab.context.new_cdp_session(tab.page)
    network.send("Network.enable")
    network.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))

    tab.go()
    tab.page.locator("#pause").wait_for()

    assert len(received) >= 4  # the page, the style sheet and two scripts
    assert sum(received) < FIRST_PAGE_BYTES, received


def test_the_keyboard_reaches_the_content_at_once_and_shows_where_it_is(tmp_path, open_tab):
    with operator_stage(tmp_path) as stage:
        page = open_tab(stage.url).go()

        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text("Skip to the content")
        expect(page.locator(":focus")).to_be_in_viewport()
        page.keyboard.press("Enter")
        assert page.url.endswith("#main")
        seen = []
        page.reload()
        for _ in range(12):
            page.keyboard.press("Tab")
            seen.append(page.evaluate(FOCUS))
        assert all(outline != "none" for _, outline in seen), seen
        names = [name for name, _ in seen]
        assert names[1:5] == ["FRACTAL node", "● well", "Overview", "Flows"]
