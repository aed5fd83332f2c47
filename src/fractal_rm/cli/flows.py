"""`flows`: commands for the flows of the configuration."""

from __future__ import annotations

from pathlib import Path

import click

from fractal_rm.cli.completion import complete_flow
from fractal_rm.cli.flows_export import export
from fractal_rm.cli.flows_fmt import fmt
from fractal_rm.cli.flows_graph import graph
from fractal_rm.cli.flows_pause import pause_flows, resume_flows
from fractal_rm.cli.flows_test import test_flows
from fractal_rm.cli.flows_try import try_flow
from fractal_rm.cli.options import (
    config_option,
    find_flow,
    json_option,
    print_json,
    print_table,
    read_config,
)
from fractal_rm.cli.safe_text import echo
from fractal_rm.config.control import Control, read_control
from fractal_rm.config.model import Config
from fractal_rm.domain.flow import Call, Step
from fractal_rm.pictures.card import Card, cards, heading


@click.group()
def flows() -> None:
    """List, show, draw, export, format and test flows."""


flows.add_command(fmt)
flows.add_command(graph)
flows.add_command(export)
flows.add_command(test_flows)
flows.add_command(try_flow)
flows.add_command(pause_flows)
flows.add_command(resume_flows)


@flows.command("list")
@config_option
@json_option
def list_flows(folder: Path, as_json: bool) -> None:
    """List the flows in flows.conf, and which of them are paused."""
    config = read_config(folder)
    flows_in_order = list(config.flows.values())
    control, problem = _read_control(Path(config.state_path))
    if as_json:
        print_json({"flows": flows_in_order, "paused_flows": control.paused_flows,
                    "node_paused": control.paused, "problem": problem})  # fmt: skip
        return
    print_table(
        ("flow", "line", "steps", "paused by", "title"),
        [
            (flow.id, flow.line, len(flow.steps), _paused_by(control, flow.id), flow.title)
            for flow in flows_in_order
        ],
        empty="flows.conf has no flows",
    )
    if control.paused:
        echo("The node is paused, so no flow begins a run: `fractal-rm resume` ends the pause.")
    if problem is not None:
        echo(f"which flows are paused is not known: {problem}", err=True)


def _read_control(state: Path) -> tuple[Control, str | None]:
    """What is paused, and why this is not known."""
    try:
        return read_control(state), None
    except OSError as error:
        return Control(), str(error)


def _paused_by(control: Control, flow_id: str) -> str:
    pause = control.paused_flows.get(flow_id)
    return "" if pause is None else pause.actor


@flows.command("show")
@click.argument("flow_id", metavar="FLOW", shell_complete=complete_flow)
@config_option
@json_option
def show_flow(flow_id: str, folder: Path, as_json: bool) -> None:
    """Show a flow: its schedule and settings, its steps, and the addresses that it calls.

    OPTIONS has what limits, repeats or undoes the step: TIMEOUT, RETRY, FOREACH, UNDO and so on.
    """
    config = read_config(folder)
    flow = find_flow(config, flow_id)
    if as_json:
        print_json(flow)
        return
    head = heading(flow)
    echo(f"flow {flow.id}" + (f", {flow.title}" if flow.title else ""))
    for keyword, value in (*head.starts[1:], *head.settings):
        echo(f"{keyword} {value}")
    print_table(
        ("step", "keyword", "target", "address", "sends", "when", "options"),
        [_row(config, step, card) for step, card in zip(flow.steps, cards(flow), strict=True)],
        empty="the flow has no steps",
    )


def _row(config: Config, step: Step, card: Card) -> tuple[object, ...]:
    target, address = card.target, ""
    if isinstance(step, Call):
        route = config.components[step.component].endpoints[step.endpoint].post
        target, address = step.component, f"{route.origin}{route.target}"
    return (
        card.number or "",
        card.keyword,
        target,
        address,
        card.sends,
        card.when or card.element_when,
        _options(card),
    )


def _options(card: Card) -> str:
    options = [("FOREACH", card.foreach), *card.options, ("UNDO", card.undo)]
    return "; ".join(f"{keyword} {text}" for keyword, text in options if text)
