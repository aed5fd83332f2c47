"""A node for tests: the engine on in-memory adapters, without sockets and without a disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from fractal_rm.adapters.memory import (
    MemoryBalancer,
    MemoryCaller,
    MemoryJournal,
    MemoryPastRuns,
    MemoryPeers,
    MemoryPublisher,
    QuietTelemetry,
    SettledRuns,
)
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.adapters.operating_system import SystemRandom
from fractal_rm.adapters.peers import HttpPeers
from fractal_rm.config.compile import FILES, compile_config
from fractal_rm.config.model import Config
from fractal_rm.config.model import Node as Peer
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.handoff.messages import NoAnswer, NoReceipt, OlderNode, Receipt
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.domain.steady import ClockChange, ClockReading, timeline_at_start, updated_timeline
from fractal_rm.domain.trigger import Arrival, TriggerSource
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.node import Node
from fractal_rm.engine.observers import Observers
from fractal_rm.flowlang import compile_flows

URL = "http://127.0.0.1:6000"
FLOWS = """\
1
TO a 1
POST payload
TO b 1
POST result1
TO a 1
POST result1 result2

2
TO b 2
GET

3
TO once 1
POST payload
TO b 1
POST result1

4
TO slow 1
GET

5
DURABLE step
TO a 1
POST payload
TO b 1
POST result1
"""


Keys = Mapping[str, Mapping[str, object]]


def config(keys: Keys = MappingProxyType({}), **changes: object) -> Config:
    """A compiled configuration. ``changes`` are fields of `Config` with new values.

    ``keys`` are further keys of components, by name of the component.
    """
    target = {"protocol": "http", "ip": "127.0.0.1", "port": 6000}

    def component(name, **more):
        endpoints = {"1": f"{name}/1", "2": f"{name}/2"}
        return {"config": {**target, "endpoints": endpoints, **more, **keys.get(name, {})}}

    contents = {
        "comm.conf": {},
        "components.conf": {
            "a": component("a"),
            "b": component("b"),
            "once": component("once", idempotent=False),
            "slow": component("slow"),
        },
        "nodes.conf": {
            "2": {"config": {**target, "endpoint": "n2"}},
            "3": {"config": {**target, "endpoint": "n3", "peer": "fractal"}},
            "4": {"config": {**target, "endpoint": "n4", "peer": "original"}},
        },
        "load_balancer.conf": {**target, "endpoint": "LB"},
    }
    texts = {name: json.dumps(content) for name, content in contents.items()}
    texts["flows.conf"] = FLOWS
    assert set(texts) == set(FILES)
    compiled = compile_config(texts, Path("/nowhere/config_files"), {}).config
    return msgspec.structs.replace(compiled, **{"node_id": "1", **changes})


def nodes(**keys: object) -> Mapping[str, Peer]:
    """The compiled nodes.conf with node 2 only. ``keys`` are further keys of its config."""
    target = {"protocol": "http", "ip": "127.0.0.1", "port": 6000, "endpoint": "n2", **keys}
    texts = dict.fromkeys(FILES, "{}")
    texts["flows.conf"], texts["nodes.conf"] = "", json.dumps({"2": {"config": target}})
    return compile_config(texts, Path("/nowhere/config_files"), {}).config.nodes


def flows(text: str) -> dict[str, Flow]:
    """Compile flows for the components of `config`. Asserts that there are no findings."""
    endpoints = {name: tuple(c.endpoints) for name, c in config().components.items()}
    compiled, findings = compile_flows(text, endpoints)
    assert [finding.render() for finding in findings] == []
    return compiled


class ManualClock:
    """A clock whose time changes only if the test changes it.

    A test adds to ``ms`` to let time pass, and to ``jumped_ms`` to set the wall clock.
    """

    def __init__(self, now_ms: int = 1_000_000) -> None:
        self.ms = now_ms
        self.jumped_ms = 0
        self.slept_ms = 0
        self.boot, self.booted_ms = "first", 0
        self._timeline = timeline_at_start(None, self._machine())

    def now_ms(self) -> int:
        return self.ms + self.jumped_ms

    def monotonic_s(self) -> float:
        return (self.ms - self.slept_ms) / 1000

    def _machine(self) -> Moment:
        return Moment(self.boot, self.ms - self.booted_ms, self.now_ms())

    def moment(self) -> Moment:
        return msgspec.structs.replace(self._machine(), ahead_ms=self.read().ahead_ms)

    def steady_ms(self) -> int:
        return self.read().steady_ms

    def read(self) -> ClockReading:
        """The current time."""
        self._timeline = updated_timeline(self._timeline, self._machine())
        return self._timeline.read(self._timeline.boot_ms)

    def detect_changes(self) -> ClockChange:
        return ClockChange()

    def continue_after(self, latest_ms: int | None) -> None:
        pass

    async def save(self) -> None:
        pass

    def sleep(self, ms: int) -> None:
        """Suspend the machine for ``ms``."""
        self.ms += ms
        self.slept_ms += ms

    def reboot(self, off_ms: int = 0, *, wall_ms: int | None = None) -> None:
        """Restart the machine after ``off_ms``. ``wall_ms`` is the wall clock after the boot."""
        self.ms += off_ms
        self.boot, self.booted_ms = f"after {self.boot}", self.ms
        if wall_ms is not None:
            self.jumped_ms = wall_ms - self.ms
        self._timeline = timeline_at_start(self._timeline, self._machine())


class Stage:
    """A node whose engine has a fake adapter for each port.

    A second stage with the same ``disk`` is the same node after a restart.
    """

    def __init__(
        self,
        disk: JournalContent | None = None,
        clock: ManualClock | None = None,
        journal: MemoryJournal | None = None,
        observers=(),
        **changes,
    ):
        self.disk = disk or JournalContent()
        self.clock = clock or ManualClock()
        self.journal = journal or MemoryJournal(self.disk)
        self.components = MemoryCaller({})
        self.peers = MemoryPeers()
        self.balancer = MemoryBalancer()
        self.publisher = MemoryPublisher()
        self.telemetry = QuietTelemetry()
        self.ended_runs = SettledRuns(self.clock.steady_ms)
        self.dependencies = Dependencies(
            config(**changes), self.journal, self.components, self.peers, self._made_balancer,
            self.publisher, self.clock, SystemRandom(), self.telemetry,
            stored_id=lambda: "stored", stored_store_id=lambda: "own store",
            make_past_runs=lambda: MemoryPastRuns(self.disk),
            observers=Observers((self.ended_runs, *observers), self.telemetry),
        )  # fmt: skip
        self.node = Node(self.dependencies, {})
        self.queue = self.node.lifecycle.queue
        self.load = self.queue.capacity.load
        for name in ("a/1", "a/2", "b/1", "b/2", "once/1"):
            self.set_answer(name, f"from {name}")

    def _made_balancer(self, config: Config) -> MemoryBalancer | None:
        return None if config.balancer is None else self.balancer

    def set_answer(self, name: str, body: str | bytes, status: int = 200, **headers: str) -> None:
        """Let an endpoint such as "a/1" give this response to every call."""
        head = "".join(f"{n.replace('_', '-')}: {v}\r\n" for n, v in headers.items()).encode()

        async def answer(_):
            return HttpResponse(status, head, body.encode() if isinstance(body, str) else body)

        self.components.answers[f"{URL}/{name}"] = answer

    def set_errors(self, name: str, *errors: Exception | None) -> None:
        """Let each HTTP call of an endpoint raise the next of ``errors``. The last is repeated.

        If the next error is None, the call succeeds.
        """
        remaining = list(errors)

        async def answer(_):
            error = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            if error is not None:
                raise error
            return HttpResponse(200, b"", b"answered")

        self.components.answers[f"{URL}/{name}"] = answer

    def block_calls(self, name: str) -> asyncio.Event:
        """Let HTTP calls of an endpoint wait until the test sets the returned event."""
        release = asyncio.Event()

        async def answer(_):
            await release.wait()
            return HttpResponse(200, b"", b"released")

        self.components.answers[f"{URL}/{name}"] = answer
        return release

    async def __aenter__(self) -> Stage:
        await self.node.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.node.drain()

    def crash(self) -> None:
        """End the node like SIGKILL: tasks stop, and facts that are not durable are lost."""
        self.journal.crash()
        self.node.kill()

    async def send(self, flow: str = "1", payload: object = "p", **keys: object):
        """Send a trigger by MQTT. Returns the result of `Node.receive`."""
        body = {"id_flow": flow, "payload": payload, **keys}
        return await self.node.receive(Arrival(TriggerSource.MQTT, json.dumps(body).encode()))

    async def offer(self, flow: str = "1", payload: object = "p", **keys: object):
        """Send a hand-off by REST, as another node does. Returns the result of `Node.receive`."""
        body = {"id_flow": flow, "payload": payload, "is_load_balancing": True, **keys}
        return await self.node.receive(Arrival(TriggerSource.REST, json.dumps(body).encode()))

    async def wait_for_outcome(self, run_id: str, within_s: float = 10):
        """Wait for the outcome of a run, and return the outcome."""
        outcome = await self.node.outcome(run_id, within_s)
        if outcome is None:  # the run had ended before
            await until(lambda: self.state(run_id).final)
            run = fold(Run(run_id, self.disk.runs[run_id].flow, 0), self.disk.facts(run_id))
            outcome = run.outcome()
        return outcome

    async def run(self, flow: str = "1", **keys: object):
        """Send a trigger by MQTT, wait for the outcome of its run, and return the outcome."""
        return await self.wait_for_outcome((await self.send(flow, **keys)).run)

    def state(self, run_id: str) -> State:
        return self.disk.runs[run_id].state

    def facts(self, run_id: str) -> list[str]:
        """The names of the types of a run's facts, in order."""
        return [type(fact).__name__ for fact in self.disk.facts(run_id)]

    def called_endpoints(self) -> list[str]:
        """The endpoints that have received a request, such as "a/1", in order."""
        return [request.url.removeprefix(URL + "/") for request in self.components.requests]


class KnownHttpPeers(HttpPeers):
    """Peers over HTTP that are of a known kind. Only offers are requests."""

    def __init__(self, caller, kind=OlderNode()) -> None:  # noqa: B008 - immutable
        super().__init__(caller)
        self._kind = kind

    async def describe(self, _node):
        return self._kind


SILENT = NoAnswer("no answer within the time limit", sent=True)
UNSENT = NoAnswer("refused", sent=False)


def peer(*answers):
    """A fake peer: a function that answers each offer with the next of ``answers``.

    "receipt" stands for a receipt for the offer, and "plain" for a response without a receipt.
    The last answer is repeated.
    """
    remaining = list(answers)

    async def answer_offer(_node, offer):
        answer = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        if answer == "receipt":
            return Receipt(offer.run, offer.epoch)
        return NoReceipt() if answer == "plain" else answer

    return answer_offer


async def until(condition, within_s=10.0):
    """Wait until ``condition()`` is true. Raises TimeoutError after ``within_s``."""

    async def wait():
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), within_s)


async def settle(turns: int = 100) -> None:
    """Let other tasks run for some turns of the event loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
