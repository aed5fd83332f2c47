"""All pages, as the application has them, and an example of each at the node of a `PageStage`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from unittest.mock import MagicMock

from fractal_rm.config.model import Rest
from fractal_rm.domain.state import State
from fractal_rm.web.pages.pages_app import make_pages_app
from page_stage import PageStage

# Files, and parts of pages.
NOT_PAGES = re.compile(
    r"^/(static|runs/new|runs/\{[^}]*\}/(values|case|facts)|dead/\{[^}]*\}/message)"
)


def routes() -> list[str]:
    """The paths of all pages, as the application has them."""
    return [path for path in all_routes() if not NOT_PAGES.match(path)]


def all_routes() -> list[str]:
    """The paths of all pages, parts of pages, and files."""
    parts = dict.fromkeys(
        ["intake", "history", "operator", "clock", "telemetry", "sessions"], MagicMock()
    )
    app = make_pages_app(rest=Rest(), **parts)
    return sorted(route.path for route in app.routes if "GET" in route.methods)


def addresses_of(
    route: str, values: dict[str, list[str]], others: Sequence[str] = ("1",)
) -> list[str]:
    """The addresses of a route, with each of ``values`` of its parameters.

    Parameters that are not in ``values`` have each of ``others``."""
    found = [route]
    for parameter, name in re.findall(r"(\{(\w+):\w+\})", route):
        texts = values.get(name, others)
        found = [each.replace(parameter, text) for each in found for text in texts]
    return found


class Examples:
    """The address of an example of each page of a node."""

    def __init__(self, stage: PageStage) -> None:
        runs = stage.node.runs()

        def first(state: State, flow: str | None = None) -> str:
            return next(
                each.id for each in runs if each.state is state and each.flow in (flow, None)
            )

        failed, letter = first(State.FAILED, "1"), first(State.DEAD)
        self._values = {
            "runs": failed, "dead": letter, "flows": "1", "components": "store", "nodes": "line-4",
            "config": "flows.conf", "config/{number:int}": "1", "bulk": stage.bulk,
            "runs/cancel": first(State.ACCEPTED, "3"),
            "runs/release": first(State.PARKED, "3"),
            "runs/decide-step": first(State.UNKNOWN, "3"),
        }  # fmt: skip

    def of(self, route: str) -> str:
        """The address of an example, relative to the root."""
        if route == "/bulk/new":
            return "bulk/new?action=discard&state=failed"
        words = route.split("/")
        value = self._values.get(f"{words[1]}/{words[-1]}", self._values.get(words[1], ""))
        return re.sub(r"\{[^}]*\}", value, route.replace("{number:int}", "1"))[1:]
