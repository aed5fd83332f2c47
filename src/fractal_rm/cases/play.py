"""Runs a case in the real engine, in virtual time, without network or disk."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec

from fractal_rm.adapters.balancer import make_balancer
from fractal_rm.adapters.memory import (
    MemoryJournal,
    MemoryPublisher,
    QuietTelemetry,
)
from fractal_rm.adapters.peers import HttpPeers
from fractal_rm.cases.mocked_replies import ComponentCall, MockedReplies
from fractal_rm.cases.model import Case
from fractal_rm.config.model import Config
from fractal_rm.config.model import Node as Peer
from fractal_rm.domain.handoff.messages import OlderNode, PeerKind, PlainPeer
from fractal_rm.domain.refusals import Refused
from fractal_rm.domain.result import NULL, display_json
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, TriggerSource
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.node import Node
from fractal_rm.engine.observers import Observers
from fractal_rm.engine.ports import AcceptFuture, NewRun
from fractal_rm.simulation.clock import VirtualClock
from fractal_rm.simulation.components import ComponentEndpoint, SimulatedCaller
from fractal_rm.simulation.loop import run_virtual
from fractal_rm.simulation.random import FixedRandom


class PublishedMessage(msgspec.Struct, frozen=True):
    """A message that the run has published."""

    topic: str
    body: bytes


class PlayedRun(msgspec.Struct, frozen=True):
    """The run of a case. ``took_ms`` is None if the run has not ended.

    ``results`` has the result of each call by the number of the call. A result of bytes is given
    as ``{"base64": "…"}``. ``unanswered`` are the requests for which the case has no reply.
    """

    state: State
    reason: str = ""
    node: str | None = None
    run: str = ""
    results: dict[int, msgspec.Raw] = {}
    reply: msgspec.Raw = NULL
    calls: tuple[ComponentCall, ...] = ()
    unanswered: tuple[ComponentCall, ...] = ()
    published: tuple[PublishedMessage, ...] = ()
    took_ms: int | None = None


class TriggerRefused(msgspec.Struct, frozen=True):
    """The trigger was refused, so there is no run."""

    code: str
    reason: str


def play(case: Case, config: Config) -> PlayedRun | TriggerRefused:
    """Run a case until its run ends, for at most ``watched_ms`` of virtual time.

    The state folder of ``config`` is not used. Raises Deadlocked if the run can never continue.
    """
    return run_virtual(_SimulatedNode(case, config).play())


class _Journal(MemoryJournal):
    """A journal in memory that also adds the flow id of each run to ``flow_ids``."""

    def __init__(self, flow_ids: dict[str, str]) -> None:
        super().__init__()
        self._flow_ids = flow_ids

    def accept(self, entry: NewRun) -> AcceptFuture:
        """Accept a new run, as the port `Journal` describes."""
        if entry.flow is not None:
            self._flow_ids[entry.run_id] = entry.flow.id
        return super().accept(entry)


class _Peers(HttpPeers):
    """The other nodes. The mocked replies of a case also show which program each of them runs."""

    def __init__(self, caller: SimulatedCaller, replies: MockedReplies) -> None:
        super().__init__(caller)
        self._replies = replies

    async def describe(self, node: Peer) -> PeerKind:
        """Return the program of a node, without a request; see the port."""
        is_fractal = node.peer == "fractal" or self._replies.runs_this_program(node.id)
        return OlderNode() if is_fractal and node.peer != "original" else PlainPeer()


class _SimulatedNode:
    """A node with simulated components, peers and broker."""

    def __init__(self, case: Case, config: Config) -> None:
        self._case = case
        self._config = config
        self._replies = MockedReplies(case, _probes(config))
        self._journal = _Journal(self._replies.flow_ids)
        self._publisher = MemoryPublisher(down=case.broker_down)

    async def play(self) -> PlayedRun | TriggerRefused:
        """Send the trigger, and wait until the run ends, for at most ``watched_ms``."""
        node = Node(self._dependencies(), {})
        await node.start()
        try:
            receipt = await node.receive(_trigger(self._case))
        except Refused as refusal:
            return TriggerRefused(refusal.code, f"{refusal.title}: {refusal.reason}")
        else:
            await node.outcome(receipt.run, self._case.watched_ms / 1000)
            unfinished_state = node.state_of(receipt.run)
            calls = tuple(self._replies.calls)
        finally:
            await node.drain()
        return self._played(receipt.run, unfinished_state, calls)

    def _dependencies(self) -> Dependencies:
        caller = SimulatedCaller(self._replies)
        clock = VirtualClock(asyncio.get_running_loop(), self._case.start_ms)
        return Dependencies(
            config=self._config,
            journal=self._journal,
            components=caller,
            peers=_Peers(caller, self._replies),
            make_balancer=partial(make_balancer, caller),
            publisher=self._publisher,
            clock=clock,
            random=FixedRandom(),
            telemetry=(telemetry := QuietTelemetry()),
            observers=Observers((), telemetry),
            stored_id=lambda: "this node",
            stored_store_id=lambda: "this state folder",
        )

    def _played(
        self, run_id: str, unfinished_state: State | None, calls: tuple[ComponentCall, ...]
    ) -> PlayedRun:
        recorded = self._journal.disk.runs[run_id]
        first, last = recorded.facts[0], recorded.facts[-1]
        facts = [timed.fact for timed in recorded.facts]
        run = fold(Run(run_id, recorded.flow, first.at_ms), facts)
        return PlayedRun(
            state=unfinished_state or run.state,
            reason=run.reason,
            node=run.node,
            run=run_id,
            results={
                number: display_json(result) for number, result in run.progress.results.items()
            },
            reply=run.outcome().reply or NULL,
            calls=calls,
            unanswered=tuple(self._replies.unanswered),
            published=tuple(
                PublishedMessage(topic, body) for topic, body, _ in self._publisher.published
            ),
            took_ms=last.at_ms - first.at_ms if unfinished_state is None else None,
        )


def _probes(config: Config) -> set[ComponentEndpoint]:
    """The endpoints that say whether a call was executed."""
    return {
        ComponentEndpoint(name, component.probe.name)
        for name, component in config.components.items()
        if component.probe is not None and not component.idempotent
    }


def _trigger(case: Case) -> Arrival:
    message: dict[str, Any] = {
        "id_flow": case.flow,
        "payload": msgspec.Raw(case.payload),
        "is_load_balancing": case.placed,
    }
    if case.deadline_ms is not None:
        message["deadline_ms"] = case.deadline_ms
    return Arrival(TriggerSource.REST, msgspec.json.encode(message), key=case.key)
