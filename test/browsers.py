"""A real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

WIDE, NARROW = (1440, 900), (390, 844)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser. Each test uses contexts of its own, so they share no cookies.

    While it runs, no test of this process can run an event loop: so it ends with the module, and a
    module with tests that use a browser has no asynchronous tests.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        assert path, "chromium is not installed: apt install chromium"
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A tab of a browser. ``faults``: what the browser complained about, such as its policy."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.context = context
        self.page: Page = context.new_page()
        self.page.set_default_timeout(20_000)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._note)

    def _note(self, message) -> None:
        # The browser says of every status above 399, and of a node that is stopped, that something
        # failed. Tests check the status and what the page says.
        if message.type not in ("error", "warning"):
            return
        if not any(
            words in message.text for words in ("Failed to load resource", "Failed to fetch")
        ):
            self.faults.append(message.text)

    def go(self, path: str = "") -> Page:
        """Open a page of the node. ``path`` is relative to the overview."""
        self.page.goto(self.url + path)
        return self.page

    def sign_in(self, token: str) -> None:
        """Sign in with a token."""
        page = self.go("sign-in")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda url: "sign-in" not in url)


@pytest.fixture
def open_tab(chromium):
    """Open a tab at a node: ``open_tab(url, size=WIDE, theme="light", scripts=True)``.

    After the test, no tab may have had a fault.
    """
    tabs: list[Tab] = []

    def open_it(url: str, size=WIDE, theme="light", scripts=True, **options) -> Tab:
        context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=theme,
            java_script_enabled=scripts, **options,
        )  # fmt: skip
        tabs.append(Tab(context, url))
        return tabs[-1]

    yield open_it
    faults = [fault for tab in tabs for fault in tab.faults]
    for tab in tabs:
        tab.page.unroute_all(behavior="ignoreErrors")  # a refresh may be on its way
        tab.context.close()
    assert not faults
