"""Takes pictures of all pages: ``python test/screenshots.py FOLDER [WORD …]``.

Each node of `page_stage.STORIES` is started with a full day behind it. With words, only pictures
are taken whose names have one of them. The program pngquant makes the files small.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from browsers import NARROW, WIDE, Tab
from page_list import Examples, routes
from page_stage import PageStage, page_stage

# The pictures of a page are from the node in trouble. Of these pages, there are more.
MORE = {"busy": ["", "runs"], "idle": [""], "empty": ["", "failures"]}
# Pages that ask before something is done look alike: one of them is shown.
QUESTIONS = re.compile(
    "/(cancel|release|discard|decide-[a-z]+|send|pause|resume|rollback|new|diff|edit/\\{[^}]*\\})(/|$)"
)
WIDTHS = {"wide": WIDE, "narrow": NARROW}
# By default a page is shown in light colours, and dark on a phone. Of these pages, there is all.
THEMES = {"wide": ["light"], "narrow": ["dark"]}
IN_ALL_THEMES = ("overview", "runs-one", "flows-one")
MAX_HEIGHT = {"wide": 860, "narrow": 900}
# Few colours: pictures are in the repository.
SMALLER = ["pngquant", "--force", "--strip", "--nofs", "--speed", "1", "48", "--output"]
FULL_HEIGHT = "() => document.querySelector('#page').scrollHeight + 40"


def pages_of(story: str, stage: PageStage) -> dict[str, str]:
    """The addresses of the pages to show of a node, by the names of their pictures."""
    if story != "broken":
        known = [path[1:] for path in routes() if "{" not in path]
        return {_name(each, story): each for each in MORE[story] if each in known}
    examples = Examples(stage)
    return {_name(path, ""): examples.of(path) for path in routes() if not QUESTIONS.search(path)}


def _name(path: str, story: str) -> str:
    path = re.sub(r"\{[^}]*\}", "one", path).strip("/")
    return (path.replace("/", "-") or "overview") + (f"-{story}" if story else "")


def take(page: Page, folder: Path, name: str, stage: PageStage, address: str) -> Iterator[Path]:
    """Take the pictures of a page, in both widths."""
    for width, (x, y) in WIDTHS.items():
        for theme in ("light", "dark") if name in IN_ALL_THEMES else THEMES[width]:
            page.emulate_media(color_scheme=theme)
            page.set_viewport_size({"width": x, "height": y})
            page.goto(stage.url + address)
            height = min(
                MAX_HEIGHT[width], max(y if width == "narrow" else 600, page.evaluate(FULL_HEIGHT))
            )
            page.set_viewport_size({"width": x, "height": height})
            path = folder / f"{name}-{width}-{theme}.png"
            page.screenshot(path=path)
            yield path


def main(target: Path, words: list[str]) -> None:
    """Take the pictures, and write them into ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        for story in ("empty", "idle", "busy", "broken"):
            now_ms = int(time.time() * 1000)
            with page_stage(Path(folder, story), story, now_ms, scale=1) as stage:
                tab = Tab(browser.new_context(), stage.url)
                tab.sign_in(stage.token())
                for name, address in pages_of(story, stage).items():
                    if words and not any(word in name for word in words):
                        continue
                    for path in take(tab.page, target, name, stage, address):
                        subprocess.run([*SMALLER, path, path], check=True)
                        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
                tab.context.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
