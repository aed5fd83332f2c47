"""All pages, as the application has them, and an example of each at the node of a `PageStage`."""

from __future__ import annotations

import re
from unittest.mock import MagicMock

from fractal_rm.config.model import Rest
from fractal_rm.web.pages.pages_app import make_pages_app
from page_stage import PageStage

# Files, and parts of pages.
NOT_PAGES = re.compile(r"^/(static|runs/\{[^}]*\}/(values|case))")


def routes() -> list[str]:
    """The paths of all pages, as the application has them."""
    parts = dict.fromkeys(
        ["intake", "history", "operator", "clock", "telemetry", "sessions"], MagicMock()
    )
    app = make_pages_app(rest=Rest(), **parts)
    paths = [route.path for route in app.routes if "GET" in route.methods]
    return sorted(path for path in paths if not NOT_PAGES.match(path))


class Examples:
    """The address of an example of each page of a node."""

    def __init__(self, stage: PageStage) -> None:
        runs = stage.node.runs()
        run = next(run.id for run in runs if run.flow == "1" and run.state.value == "failed")
        letter = next(run.id for run in runs if run.state.value == "dead")
        self._values = {"runs": run, "dead": letter, "flows": "1", "components": "store",
                        "nodes": "line-4", "config": "flows.conf"}  # fmt: skip

    def of(self, route: str) -> str:
        """The address of an example, relative to the root."""
        first = route.split("/")[1]
        return re.sub(r"\{[^}]*\}", lambda _: self._values[first], route)[1:]
