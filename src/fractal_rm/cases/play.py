"""Run a case in the engine itself, under virtual time, without network or disk."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from fractal_rm.adapters.balancer import HttpBalancer
from fractal_rm.adapters.memory import (
    MemoryJournal,
    MemoryKnownPeers,
    MemoryPublisher,
    QuietTelemetry,
)
from fractal_rm.adapters.peers import HttpPeers
from fractal_rm.cases.answers import Answers, Called
from fractal_rm.cases.model import Case
from fractal_rm.config.model import Config
from fractal_rm.domain.errors import Refused
from fractal_rm.domain.result import NULL, as_shown
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, Source
from fractal_rm.engine.node import Node
from fractal_rm.engine.ports import Entry, Written
from fractal_rm.engine.world import World
from fractal_rm.simulation.components import SimulatedCaller, marked
from fractal_rm.simulation.loop import run_virtual
from fractal_rm.simulation.world import EvenRandom, VirtualClock


class Message(msgspec.Struct, frozen=True):
    """One message that was published."""

    topic: str
    body: bytes


class Observed(msgspec.Struct, frozen=True):
    """What came of a case. ``took_ms`` is None for a run without an end.

    ``results`` are by number; bytes are ``{"base64": "…"}``. ``unanswered`` are the calls for which
    the case has no reply.
    """

    state: State
    reason: str = ""
    node: str | None = None
    run: str = ""
    results: dict[int, msgspec.Raw] = {}
    reply: msgspec.Raw = NULL
    calls: tuple[Called, ...] = ()
    unanswered: tuple[Called, ...] = ()
    published: tuple[Message, ...] = ()
    took_ms: int | None = None


class TriggerRefused(msgspec.Struct, frozen=True):
    """The trigger never became a run."""

    code: str
    reason: str


def play(case: Case, config: Config) -> Observed | TriggerRefused:
    """Run a case to its end, or until it has been watched for as long as it says.

    The state folder of ``config`` is not touched. Raises Stuck where the engine can never go on.
    """
    return run_virtual(_Stage(case, config).play())


class _Journal(MemoryJournal):
    """Tells of which flow each new run is."""

    def __init__(self, flow_of: dict[str, str]) -> None:
        super().__init__()
        self._flow_of = flow_of

    def accept(self, entry: Entry) -> Written:
        """Write a new run; see the port."""
        if entry.flow is not None:
            self._flow_of[entry.run_id] = entry.flow.id
        return super().accept(entry)


class _Stage:
    """One node and everything around it."""

    def __init__(self, case: Case, config: Config) -> None:
        self._case = case
        self._config = marked(config)
        self._answers = Answers(case)
        self._journal = _Journal(self._answers.flow_of)
        self._publisher = MemoryPublisher(down=case.broker_down)

    async def play(self) -> Observed | TriggerRefused:
        """From the trigger to the end."""
        node = Node(self._world(), {})
        await node.start()
        try:
            taken = await node.receive(_arrival(self._case))
        except Refused as refusal:
            return TriggerRefused(refusal.code, f"{refusal.title}: {refusal.reason}")
        else:
            await node.outcome(taken.run, self._case.watched_ms / 1000)
            left = node.state_of(taken.run)
            calls = tuple(self._answers.calls)
        finally:
            await node.drain()
        return self._observed(taken.run, left, calls)

    def _world(self) -> World:
        caller = SimulatedCaller(self._answers)
        clock = VirtualClock(asyncio.get_running_loop(), self._case.start_ms)
        return World(
            config=self._config,
            journal=self._journal,
            components=caller,
            peers=HttpPeers(caller),
            balancer=HttpBalancer(caller),
            publisher=self._publisher,
            clock=clock,
            random=EvenRandom(),
            telemetry=QuietTelemetry(),
            known_peers=MemoryKnownPeers(*self._answers.known(self._config)),
            kept_id=lambda: "this node",
        )

    def _observed(self, run_id: str, left: State | None, calls: tuple[Called, ...]) -> Observed:
        kept = self._journal.disk.runs[run_id]
        first, last = kept.facts[0], kept.facts[-1]
        facts = [timed.fact for timed in kept.facts]
        run = fold(Run(run_id, kept.flow, first.at_ms), facts)
        return Observed(
            state=left or run.state,
            reason=run.reason,
            node=run.node,
            run=run_id,
            results={number: as_shown(result) for number, result in run.results.items()},
            reply=run.outcome().reply or NULL,
            calls=calls,
            unanswered=tuple(self._answers.unanswered),
            published=tuple(Message(t, body) for t, body, _ in self._publisher.published),
            took_ms=last.at_ms - first.at_ms if left is None else None,
        )


def _arrival(case: Case) -> Arrival:
    message: dict[str, Any] = {
        "id_flow": case.flow,
        "payload": msgspec.Raw(case.payload),
        "is_load_balancing": case.placed,
    }
    if case.deadline_ms is not None:
        message["deadline_ms"] = case.deadline_ms
    return Arrival(Source.REST, msgspec.json.encode(message), key=case.key)
