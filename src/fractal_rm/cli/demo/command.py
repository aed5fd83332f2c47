"""`demo`: fire the flows by MQTT and REST, and print each run as it ends."""

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
from fractal_rm.cli.main import EXIT_NOT_WELL
from fractal_rm.cli.options import json_option, moment, print_json
from fractal_rm.domain.call import Origin, Reply, route
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import RunSummary

FLOWS = ("1", "2", "3")
PAYLOAD = "0x03abcdefghil"
ONCE_LIMIT_S = 30.0
STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_COLUMNS = "{:<13} {:<7} {:<5} {:<5} {:<8} {:<11} {:>5}   {}"


@click.command()
@click.option("--once", is_flag=True, help="Fire each flow once by each way, print, and end.")
@json_option
def demo(once: bool, as_json: bool) -> int:
    """Show two nodes at work on this machine.

    Ctrl-C ends all of it. With --once it exits 0 only if every run ended as it should.
    """
    return asyncio.run(_demo(once=once, as_json=as_json))


async def _demo(*, once: bool, as_json: bool) -> int:
    """Show it until it is done, or one of STOP comes: at whatever moment, all of it is ended."""
    shown = asyncio.ensure_future(_shown(once=once, as_json=as_json))
    for number in STOP:
        asyncio.get_running_loop().add_signal_handler(number, shown.cancel)
    try:
        return await shown
    except asyncio.CancelledError:
        return EXIT_NOT_WELL if once else 0


async def _shown(*, once: bool, as_json: bool) -> int:
    balancer = DemoBalancer()
    balancer_port = await balancer.start()
    try:
        return await _on_stage(balancer_port, once=once, as_json=as_json)
    finally:
        await balancer.close()


async def _on_stage(balancer_port: int, *, once: bool, as_json: bool) -> int:
    with tempfile.TemporaryDirectory(prefix="fractal-rm-demo-") as folder:
        async with Stage(Path(folder), balancer_port) as stage, _show(stage, as_json) as show:
            if once:
                return 0 if await _once(show) else EXIT_NOT_WELL
            try:
                await asyncio.gather(_fire_on(show), show.until(lambda: False))
            finally:
                click.echo("\nending everything")
    return 0


async def _once(show: _Show) -> bool:
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_fire_each(show), ONCE_LIMIT_S)
    well = show.is_well(fired=2 * len(FLOWS))
    show.finish(well)
    return well


async def _fire_each(show: _Show) -> None:
    fired = 0
    for flow in FLOWS:
        for fire in (show.fire_mqtt, show.fire_rest):
            await fire(flow)
            fired += 1
            await show.until(lambda n=fired: len(show.ended_at("1")) >= n)
    # What went to node 2 ends there too, under the same id.
    await show.until(lambda: show.handed_off() <= {run.id for run in show.ended_at("2")})


async def _fire_on(show: _Show) -> None:
    while True:
        for flow in FLOWS:
            await show.fire_mqtt(flow)
            await show.fire_rest(flow)
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
    """Fires triggers at node 1, and prints what both nodes say about their runs."""

    def __init__(self, stage: Stage, client: Any, caller: Http1Caller, as_json: bool) -> None:
        self._nodes = {node.id: node for node in stage.nodes}
        self._client = client
        self._caller = caller
        self._as_json = as_json
        self._ended: dict[tuple[str, str], RunSummary] = {}
        if not as_json:
            click.echo(f"{stage.broker}, two nodes, three components and a balancer are up.\n")
            head = ("ENDED", "NODE", "FLOW", "BY", "RAN", "STATE", "MS", "WHY")
            click.echo(_COLUMNS.format(*head))

    async def fire_mqtt(self, flow: str) -> None:
        """A trigger by MQTT at QoS 1."""
        body = json.dumps({"id_flow": flow, "payload": PAYLOAD})
        self._client.publish(self._nodes["1"].topic, body, qos=1)

    async def fire_rest(self, flow: str) -> None:
        """A trigger by REST."""
        message = {"id_flow": flow, "is_load_balancing": False, "payload": PAYLOAD}
        await self._ask(self._nodes["1"], "POST", "/startrm", json.dumps(message).encode())

    async def until_ready(self) -> None:
        """A message that is published before a node has subscribed is nobody's."""
        for node in self._nodes.values():
            while (await self._call(node, "GET", "/readyz")).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def until(self, condition: Any) -> None:
        """Look at both nodes until a condition holds."""
        await self._look()
        while not condition():
            await asyncio.sleep(0.1)
            await self._look()

    async def _look(self) -> None:
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
    ) -> Reply:
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

    # --- what came of it ----------------------------------------------------------------------

    def ended_at(self, node: str) -> list[RunSummary]:
        """The runs that have ended at a node."""
        return [run for (at, _), run in self._ended.items() if at == node]

    def handed_off(self) -> set[str]:
        """The ids of the runs that node 1 handed to node 2."""
        return {run.id for run in self.ended_at("1") if run.state is State.HANDED_OFF}

    def is_well(self, *, fired: int) -> bool:
        """Each trigger ended once, half of them here and half there, and all succeeded."""
        here = [run for run in self.ended_at("1") if run.state is State.SUCCEEDED]
        there = {run.id for run in self.ended_at("2") if run.state is State.SUCCEEDED}
        return (
            len(here) == fired // 2
            and len(self.ended_at("1")) == fired
            and self.handed_off() == there
        )

    def finish(self, well: bool) -> None:
        """The last word."""
        if self._as_json:
            runs = [{"at_node": at, "run": run} for (at, _), run in self._ended.items()]
            print_json({"well": well, "runs": runs})
        else:
            click.echo("\nevery run ended as it should" if well else "\nNOT every run ended well")
