"""`demo`: triggers the flows by MQTT and REST, and prints each run when it has ended."""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import click
import gmqtt  # pyright: ignore[reportMissingTypeStubs]
import msgspec
from gmqtt.mqtt.constants import MQTTv311  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.http1 import Http1Caller
from fractal_rm.cli.demo.balancer import DemoBalancer
from fractal_rm.cli.demo.stage import HOST, START_LIMIT_S, DemoNode, Stage
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.options import json_option, moment, print_json
from fractal_rm.domain.call import HttpResponse, Origin, route
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import RunSummary

FLOWS = ("1", "2", "3")
PAYLOAD = "0x03abcdefghil"
ONCE_LIMIT_S = 30.0
STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_COLUMNS = "{:<13} {:<7} {:<5} {:<5} {:<8} {:<11} {:>5}   {}"


@click.command()
@click.option(
    "--once",
    is_flag=True,
    help="Trigger each flow once by MQTT and once by REST, print the runs, and exit.",
)
@json_option
def demo(once: bool, as_json: bool) -> int:
    """Run two nodes on this machine, and show their runs.

    Ctrl-C ends the demo. With --once, it exits 0 only if every run ended as expected.
    """
    return asyncio.run(_demo(once=once, as_json=as_json))


async def _demo(*, once: bool, as_json: bool) -> int:
    """Run the demo until it is done or a STOP signal comes; then end all its processes."""
    task = asyncio.ensure_future(_with_balancer(once=once, as_json=as_json))
    for number in STOP:
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return EXIT_PROBLEMS if once else 0


async def _with_balancer(*, once: bool, as_json: bool) -> int:
    balancer = DemoBalancer()
    balancer_port = await balancer.start()
    try:
        return await _with_processes(balancer_port, once=once, as_json=as_json)
    finally:
        await balancer.close()


async def _with_processes(balancer_port: int, *, once: bool, as_json: bool) -> int:
    with tempfile.TemporaryDirectory(prefix="fractal-rm-demo-") as folder:
        async with Stage(Path(folder), balancer_port) as stage, _show(stage, as_json) as show:
            if once:
                return 0 if await _once(show) else EXIT_PROBLEMS
            try:
                await asyncio.gather(_trigger_repeatedly(show), show.until(lambda: False))
            finally:
                click.echo("\nending everything")
    return 0


async def _once(show: _Show) -> bool:
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_trigger_each(show), ONCE_LIMIT_S)
    passed = show.passed(triggers=2 * len(FLOWS))
    show.print_result(passed)
    return passed


async def _trigger_each(show: _Show) -> None:
    count = 0
    for flow in FLOWS:
        for trigger in (show.trigger_by_mqtt, show.trigger_by_rest):
            await trigger(flow)
            count += 1
            await show.until(lambda n=count: len(show.ended_at("1")) >= n)
    # A run that was handed off ends on node 2 too, with the same id.
    await show.until(lambda: show.handed_off() <= {run.id for run in show.ended_at("2")})


async def _trigger_repeatedly(show: _Show) -> None:
    while True:
        for flow in FLOWS:
            await show.trigger_by_mqtt(flow)
            await show.trigger_by_rest(flow)
        await asyncio.sleep(1.0)


@asynccontextmanager
async def _show(stage: Stage, as_json: bool) -> AsyncGenerator[_Show, None]:
    client: Any = gmqtt.Client("demo-publisher")
    await client.connect(HOST, stage.mqtt_port, version=MQTTv311)
    caller = Http1Caller()
    try:
        show = _Show(stage, client, caller, as_json)
        await asyncio.wait_for(show.until_ready(), START_LIMIT_S)
        yield show
    finally:
        await client.disconnect()
        await caller.close()


class _Page(msgspec.Struct):
    runs: list[RunSummary]


class _Show:
    """Sends triggers to node 1, and prints the runs of both nodes."""

    def __init__(self, stage: Stage, client: Any, caller: Http1Caller, as_json: bool) -> None:
        self._nodes = {node.id: node for node in stage.nodes}
        self._client = client
        self._caller = caller
        self._as_json = as_json
        self._ended: dict[tuple[str, str], RunSummary] = {}
        if not as_json:
            click.echo(f"{stage.broker}, two nodes, three components and a balancer are running.\n")
            head = ("ENDED", "NODE", "FLOW", "BY", "RAN", "STATE", "MS", "WHY")
            click.echo(_COLUMNS.format(*head))

    async def trigger_by_mqtt(self, flow: str) -> None:
        """Send a trigger by MQTT with QoS 1."""
        body = json.dumps({"id_flow": flow, "payload": PAYLOAD})
        self._client.publish(self._nodes["1"].topic, body, qos=1)

    async def trigger_by_rest(self, flow: str) -> None:
        """Send a trigger by REST."""
        message = {"id_flow": flow, "is_load_balancing": False, "payload": PAYLOAD}
        await self._ask(self._nodes["1"], "POST", "/startrm", json.dumps(message).encode())

    async def until_ready(self) -> None:
        """Wait until both nodes are ready: a message before they subscribe would be lost."""
        for node in self._nodes.values():
            while (await self._call(node, "GET", "/readyz")).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def until(self, condition: Any) -> None:
        """Poll both nodes until a condition is true."""
        await self._poll()
        while not condition():
            await asyncio.sleep(0.1)
            await self._poll()

    async def _poll(self) -> None:
        new: list[tuple[DemoNode, RunSummary]] = []
        for node in self._nodes.values():
            page = msgspec.json.decode(
                await self._ask(node, "GET", "/v1/runs?limit=200"), type=_Page
            )
            new += [
                (node, run)
                for run in page.runs
                if run.state.final and (node.id, run.id) not in self._ended
            ]
        for node, run in sorted(new, key=lambda each: each[1].settled_ms or 0):
            self._ended[node.id, run.id] = run
            self._print(node, run)

    async def _ask(
        self, node: DemoNode, method: str, target: str, body: bytes | None = None
    ) -> bytes:
        return (await self._call(node, method, target, body)).body

    async def _call(
        self, node: DemoNode, method: str, target: str, body: bytes | None = None
    ) -> HttpResponse:
        to = route(Origin("http", HOST, node.rest_port), method, target)
        return await self._caller.call(to, body)

    def _print(self, node: DemoNode, run: RunSummary) -> None:
        if self._as_json:
            return
        ran = f"node {run.node}" if run.node else "here"
        took_ms = (run.settled_ms or run.accepted_ms) - run.accepted_ms
        at = moment(run.settled_ms or run.accepted_ms)[11:]
        line = (at, f"node {node.id}", run.flow, run.source, ran, run.state.value, took_ms)
        click.echo(_COLUMNS.format(*line, run.reason))

    # --- results ------------------------------------------------------------------------------

    def ended_at(self, node: str) -> list[RunSummary]:
        """The runs that have ended on a node."""
        return [run for (at, _), run in self._ended.items() if at == node]

    def handed_off(self) -> set[str]:
        """The ids of the runs that node 1 handed to node 2."""
        return {run.id for run in self.ended_at("1") if run.state is State.HANDED_OFF}

    def passed(self, *, triggers: int) -> bool:
        """Whether all runs succeeded, half of them on node 1 and half on node 2."""
        here = [run for run in self.ended_at("1") if run.state is State.SUCCEEDED]
        there = {run.id for run in self.ended_at("2") if run.state is State.SUCCEEDED}
        return (
            len(here) == triggers // 2
            and len(self.ended_at("1")) == triggers
            and self.handed_off() == there
        )

    def print_result(self, passed: bool) -> None:
        """Print whether all runs ended as expected."""
        if self._as_json:
            runs = [{"at_node": at, "run": run} for (at, _), run in self._ended.items()]
            print_json({"well": passed, "runs": runs})
        else:
            click.echo(f"\n{'every' if passed else 'NOT every'} run ended as expected")
