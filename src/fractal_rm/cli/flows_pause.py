"""`flows pause` and `flows resume`: hold back the runs of a flow."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.local_socket.client import NoProcess
from fractal_rm.adapters.local_socket.flow_pauses import FlowPauses
from fractal_rm.cli.act import new_request_id
from fractal_rm.cli.ask import folder_actions, own_name
from fractal_rm.cli.completion import complete_flow
from fractal_rm.cli.options import config_option, json_option, print_json, read_config, state_of
from fractal_rm.cli.safe_text import echo
from fractal_rm.domain.actions import ActionDone, ActionRequest, PauseFlow, ResumeFlow

_flows_argument = click.argument(
    "flow_ids", metavar="FLOW...", nargs=-1, required=True, shell_complete=complete_flow
)


@click.command("pause")
@_flows_argument
@config_option
@json_option
def pause_flows(flow_ids: tuple[str, ...], folder: Path, *, as_json: bool) -> None:
    """Begin no more runs of flows. New triggers are accepted and wait; runs in flight continue.

    The pause stays until `flows resume`, also after a restart. Without a running node, it begins
    when the node starts.
    """
    _act(folder, [PauseFlow(each) for each in flow_ids], as_json=as_json)


@click.command("resume")
@_flows_argument
@config_option
@json_option
def resume_flows(flow_ids: tuple[str, ...], folder: Path, *, as_json: bool) -> None:
    """End the pause of flows: their waiting runs begin."""
    _act(folder, [ResumeFlow(each) for each in flow_ids], as_json=as_json)


def _act(folder: Path, actions: list[PauseFlow | ResumeFlow], *, as_json: bool) -> None:
    state = state_of(folder)
    results = [asyncio.run(_act_on_flow(folder, state, action)) for action in actions]
    if as_json:
        print_json({"flows": [
            {"flow": action.flow, "paused": isinstance(action, PauseFlow),
             "repeated": done.repeated, "running": is_running}
            for action, (done, is_running) in zip(actions, results, strict=True)
        ]})  # fmt: skip
        return
    for action, (done, is_running) in zip(actions, results, strict=True):
        echo(_sentence(action, done, is_running=is_running))


async def _act_on_flow(
    folder: Path, state: Path, action: PauseFlow | ResumeFlow
) -> tuple[ActionDone, bool]:
    """Pause or resume a flow. Also returns whether a node is running."""
    try:
        request = ActionRequest(action, own_name(), new_request_id())
        return await folder_actions(state).act(request), True
    except NoProcess:
        flows = read_config(folder).flows
        pauses = FlowPauses(state, lambda: flows, SystemClock.now_ms, lambda _: None)
        return await pauses.act(action, own_name()), False


def _sentence(action: PauseFlow | ResumeFlow, done: ActionDone, *, is_running: bool) -> str:
    if isinstance(action, ResumeFlow):
        return f"flow {action.flow} " + ("was not paused" if done.repeated else "is resumed")
    already = " already" if done.repeated else ""
    text = f"flow {action.flow} is{already} paused; `fractal-rm flows resume {action.flow}` ends it"
    return text if is_running else f"{text}. No node runs now: the pause begins with its start"
