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
    """List the flows in flows.conf."""
    flows_in_order = list(read_config(folder).flows.values())
    if as_json:
        print_json({"flows": flows_in_order})
        return
    print_table(
        ("flow", "line", "steps", "title"),
        [(flow.id, flow.line, len(flow.steps), flow.title) for flow in flows_in_order],
        empty="flows.conf has no flows",
    )


@flows.command("show")
@click.argument("flow_id", metavar="FLOW", shell_complete=complete_flow)
@config_option
@json_option
def show_flow(flow_id: str, folder: Path, as_json: bool) -> None:
    """Show a flow: its schedule and settings, its steps, and the addresses that it calls."""
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
        ("step", "keyword", "target", "address", "sends", "when"),
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
    )
