"""`demo`: trigger flows by MQTT and REST, and print each run when it has ended."""

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
from fractal_rm.cli.demo.processes import HOST, START_LIMIT_S, DemoNode, DemoProcesses
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.options import json_option, moment, print_json
from fractal_rm.cli.safe_text import echo
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
    """Run the demo until it finishes or gets a signal in STOP. Then stop all its processes."""
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
        async with (
            DemoProcesses(Path(folder), balancer_port) as processes,
            _watch(processes, as_json) as runs,
        ):
            if once:
                return 0 if await _once(runs) else EXIT_PROBLEMS
            try:
                print_runs = runs.until(lambda: False)  # prints until the demo is cancelled
                await asyncio.gather(_trigger_repeatedly(runs), print_runs)
            finally:
                echo("\nstopping all processes")
    return 0


async def _once(runs: _DemoRuns) -> bool:
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_trigger_each(runs), ONCE_LIMIT_S)
    passed = runs.passed(triggers=2 * len(FLOWS))
    runs.print_result(passed)
    return passed


async def _trigger_each(runs: _DemoRuns) -> None:
    count = 0
    for flow in FLOWS:
        for trigger in (runs.trigger_by_mqtt, runs.trigger_by_rest):
            await trigger(flow)
            count += 1
            await runs.until(lambda n=count: len(runs.ended_at("1")) >= n)
    # A run that was handed off ends on node 2 too, with the same id.
    await runs.until(lambda: runs.handed_off() <= {run.id for run in runs.ended_at("2")})


async def _trigger_repeatedly(runs: _DemoRuns) -> None:
    while True:
        for flow in FLOWS:
            await runs.trigger_by_mqtt(flow)
            await runs.trigger_by_rest(flow)
        await asyncio.sleep(1.0)


@asynccontextmanager
async def _watch(processes: DemoProcesses, as_json: bool) -> AsyncGenerator[_DemoRuns, None]:
    client: Any = gmqtt.Client("demo-publisher")
    await client.connect(HOST, processes.mqtt_port, version=MQTTv311)
    caller = Http1Caller()
    try:
        runs = _DemoRuns(processes, client, caller, as_json)
        await asyncio.wait_for(runs.until_ready(), START_LIMIT_S)
        yield runs
    finally:
        await client.disconnect()
        await caller.close()


class _Page(msgspec.Struct):
    runs: list[RunSummary]


class _DemoRuns:
    """Sends triggers to node 1, and prints the runs of both nodes."""

    def __init__(
        self, processes: DemoProcesses, client: Any, caller: Http1Caller, as_json: bool
    ) -> None:
        self._nodes = {node.id: node for node in processes.nodes}
        self._client = client
        self._caller = caller
        self._as_json = as_json
        self._ended: dict[tuple[str, str], RunSummary] = {}
        if not as_json:
            echo(f"{processes.broker}, two nodes, three components and a balancer are running.\n")
            head = ("ENDED", "NODE", "FLOW", "BY", "RAN", "STATE", "MS", "WHY")
            echo(_COLUMNS.format(*head))

    async def trigger_by_mqtt(self, flow: str) -> None:
        """Send a trigger to node 1 by MQTT with QoS 1."""
        body = json.dumps({"id_flow": flow, "payload": PAYLOAD})
        self._client.publish(self._nodes["1"].topic, body, qos=1)

    async def trigger_by_rest(self, flow: str) -> None:
        """Send a trigger to node 1 by REST."""
        message = {"id_flow": flow, "is_load_balancing": False, "payload": PAYLOAD}
        await self._ask(self._nodes["1"], "POST", "/startrm", json.dumps(message).encode())

    async def until_ready(self) -> None:
        """Wait until both nodes are ready. A message that is sent before that would be lost."""
        for node in self._nodes.values():
            while (await self._call(node, "GET", "/readyz")).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def until(self, condition: Any) -> None:
        """Poll both nodes and print new runs that have ended, until ``condition`` returns true."""
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
        ran_on = f"node {run.node}" if run.node else "here"
        took_ms = (run.settled_ms or run.accepted_ms) - run.accepted_ms
        at = moment(run.settled_ms or run.accepted_ms)[11:]
        line = (at, f"node {node.id}", run.flow, run.source, ran_on, run.state.value, took_ms)
        echo(_COLUMNS.format(*line, run.reason))

    # --- results ------------------------------------------------------------------------------

    def ended_at(self, node: str) -> list[RunSummary]:
        """Return the runs that have ended on a node."""
        return [run for (at, _), run in self._ended.items() if at == node]

    def handed_off(self) -> set[str]:
        """Return the ids of the runs that node 1 handed off to node 2."""
        return {run.id for run in self.ended_at("1") if run.state is State.HANDED_OFF}

    def passed(self, *, triggers: int) -> bool:
        """Return whether all runs succeeded, half of them on each node."""
        on_node_1 = [run for run in self.ended_at("1") if run.state is State.SUCCEEDED]
        on_node_2 = {run.id for run in self.ended_at("2") if run.state is State.SUCCEEDED}
        return (
            len(on_node_1) == triggers // 2
            and len(self.ended_at("1")) == triggers
            and self.handed_off() == on_node_2
        )

    def print_result(self, passed: bool) -> None:
        """Print whether all runs ended as expected."""
        if self._as_json:
            runs = [{"at_node": at, "run": run} for (at, _), run in self._ended.items()]
            print_json({"well": passed, "runs": runs})
        else:
            echo(f"\n{'every' if passed else 'NOT every'} run ended as expected")
