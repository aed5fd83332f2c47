"""docs/reference/metrics.md and logs.md list exactly what the program has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from fractal_rm.adapters.metrics.families import FAMILIES
from fractal_rm.domain.journal_errors import JournalBlocked
from fractal_rm.domain.state import State

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "fractal_rm"
LOGGING = {"event", "problem", "detail"}


def rows(page: str, columns: int) -> list[list[str]]:
    """The rows of the tables of a page whose first cell is code, and that have so many columns."""
    text = (ROOT / "docs" / "reference" / page).read_text()
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [line for line in lines if len(line) == columns]


def test_each_metric_is_documented_with_its_kind_labels_and_meaning():
    documented = [
        (name.strip("`"), kind, tuple(re.findall("`(.*?)`", labels)), meaning)
        for name, kind, labels, meaning in rows("metrics.md", 4)
    ]
    assert documented == [tuple(family) for family in FAMILIES]


def logged_events() -> set[str]:
    """The names of the events in calls of the port `Telemetry`, found in the source."""
    events = {f"run_{state.value}" for state in State if state.final}
    events -= {"run_succeeded", "run_handed-off"}  # these ends are not logged
    events |= {kind.code.replace("-", "_") for kind in subclasses(JournalBlocked)}
    events.add("log_lines_lost")
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                events |= set(names_in(node))
    return events


def names_in(call: ast.Call) -> list[str]:
    """The names of events that a call logs: its first argument, or that of a delayed call."""
    function, arguments = call.func, call.args
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name == "_call_soon" and isinstance(arguments[0], ast.Attribute):
        name, arguments = arguments[0].attr, arguments[1:]
    if name not in {*LOGGING, "report"} or not arguments:
        return []
    first = arguments[0]
    texts = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
    names = [text.value for text in texts if isinstance(text, ast.Constant)]
    return [name for name in names if re.fullmatch("[a-z]+(_[a-z]+)*", str(name))]


def subclasses(kind: type) -> set[type]:
    found = {kind}
    for each in kind.__subclasses__():
        found |= subclasses(each)
    return found


def test_each_event_of_the_log_is_documented():
    documented = {name.strip("`") for name, level, _ in rows("logs.md", 3) if level[0].islower()}
    documented -= {"warning", "info", "debug"}
    not_events = {"cert", "key"}  # keys of the configuration, in a function that is named `report`
    assert documented == logged_events() - not_events
