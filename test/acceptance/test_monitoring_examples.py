"""The alert rules and the dashboard in examples/ name existing metrics and commands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from engine_stage import Stage
from fractal_rm.adapters.metrics.families import FAMILIES
from fractal_rm.cli.main import cli
from scraped import Scraped

EXAMPLES = Path(__file__).parents[2] / "examples"
ALERTS = EXAMPLES / "prometheus" / "alerts.yml"
DASHBOARD = EXAMPLES / "grafana" / "fractal-rm.json"
KNOWN = {
    *(family.name for family in FAMILIES),
    *(f"{family.name}_{part}" for family in FAMILIES if family.kind == "histogram"
      for part in ("bucket", "sum", "count")),
}  # fmt: skip


def promtool(*words: str, stdin: str | None = None) -> None:
    """Run promtool. Asserts that it finds nothing wrong."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: run .ci/needs promtool")
    done = subprocess.run(
        [program, *words], cwd=ALERTS.parent, input=stdin, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules_and_the_configuration():
    promtool("check", "rules", "alerts.yml")
    promtool("check", "config", "prometheus.yml")


def test_each_alert_fires_in_its_case_and_is_silent_in_the_other():
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    tests = (ALERTS.parent / "alerts_test.yml").read_text()
    cases = re.findall(r"- name: (\w+) (fires|is silent)", tests)
    assert cases == [(alert, kind) for alert in alerts for kind in ("fires", "is silent")]
    promtool("test", "rules", "alerts_test.yml")


async def test_promtool_accepts_the_metrics_of_a_node():
    async with Stage(balancer=None) as stage:
        scraped = Scraped(stage)
        await stage.run("1")
        text = await scraped.text()
    promtool("check", "metrics", stdin=text)


@pytest.mark.parametrize("path", [ALERTS, DASHBOARD, ALERTS.parent / "alerts_test.yml"])
def test_the_examples_name_only_metrics_that_exist(path):
    named = set(re.findall(r"\b(?:fractal_rm|process)_[a-z_]+", path.read_text()))
    assert named
    assert named <= KNOWN


def commands_in(text: str) -> set[tuple[str, ...]]:
    """The commands `fractal-rm …` in a text, without their options and arguments."""
    lines = re.findall(r"fractal-rm ((?:[a-z]+ ?)+)((?:--[a-z-]+|[^`\"]*?--[a-z-]+)?)", text)
    return {(*words.split(), *re.findall("--[a-z-]+", options)) for words, options in lines}


@pytest.mark.parametrize("path", [ALERTS, DASHBOARD])
def test_the_commands_that_the_examples_name_exist(path):
    for command in commands_in(path.read_text()):
        words = list(command)
        at: click.Command = cli
        context = click.Context(cli)
        while words and isinstance(at, click.Group) and not words[0].startswith("--"):
            found = at.get_command(context, words[0])
            assert found is not None, command
            at = found
            words.pop(0)
        options = {name for each in at.params for name in each.opts + each.secondary_opts}
        assert {word for word in words if word.startswith("--")} <= options, command


def test_each_panel_of_the_dashboard_has_a_query_and_no_two_overlap():
    panels = [each for each in json.loads(DASHBOARD.read_text())["panels"] if each["type"] != "row"]
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(panel["targets"] for panel in panels)
