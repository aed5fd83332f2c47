"""Asks the other nodes, and counts the hand-offs, in the background."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from fractal_rm.adapters.http1 import Http1Caller
from fractal_rm.adapters.node_id import NodeIdUnreadable, existing_store_id
from fractal_rm.adapters.peers.questions import ask_nodes
from fractal_rm.config.model import Config, Node
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.node_check import Answer, fault_of
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Clock, Count, History
from fractal_rm.web.pages.numbers.background import Background, Backgrounds
from fractal_rm.web.pages.numbers.samples import SampledRun, Samples

LIMIT_S = 3.0  # for the answer of one node
WAIT_S = 0.1  # of a page
KEPT_S = 5.0
SHARE = 0.02
COUNT_WITHIN_S = 0.05  # other questions to the history wait meanwhile
MAX_COUNTED = 99_999
DAY_MS = 24 * 3_600_000


class Asked(msgspec.Struct, frozen=True):
    """The answer of a node, and when it was asked: milliseconds since 1970.

    ``since_ms``: since when it has answered that it cannot take runs, or not at all.
    """

    answer: Answer
    at_ms: int
    since_ms: int | None = None


class Sent(msgspec.Struct, frozen=True):
    """Runs of the last 24 hours that a node took, and those whose offer has no known outcome.

    ``last_ms`` is when the newest of them ended, or was accepted here.
    """

    taken: Count
    in_doubt: Count
    last_ms: int | None


class HandOffs(msgspec.Struct, frozen=True):
    """Hand-offs of the last 24 hours to each node, by its id, and from other nodes.

    ``received`` is the number of runs from all nodes, and ``newest`` are the newest of them.
    ``problem``: why they are not known.
    """

    sent: dict[str, Sent] = {}
    received: Count = Count(0)
    newest: list[SampledRun] = []
    problem: str = ""


class OtherNodes:
    """What pages show about other nodes. A slow node makes no page slow."""

    def __init__(self, history: History, samples: Samples, clock: Clock) -> None:
        self._history = history
        self._samples = samples
        self._clock = clock
        self._answers = Backgrounds(self._ask, KEPT_S, clock.monotonic_s)
        self._hand_offs = Background(self._count, KEPT_S, clock.monotonic_s, SHARE)
        self._nodes: tuple[str, ...] = ()
        self._since_ms: dict[Node, int] = {}

    async def answers(self, config: Config, wait_s: float = WAIT_S) -> dict[str, Asked]:
        """The newest answer of each node of nodes.conf, by its id. Some are missing at first."""
        nodes = list(config.nodes.values())
        answers = await asyncio.gather(*(self._answers.latest(node, wait_s) for node in nodes))
        pairs = zip(nodes, answers, strict=True)
        return {node.id: answer for node, answer in pairs if answer is not None}

    async def hand_offs(self, config: Config) -> HandOffs | None:
        """The newest counts; None: they are being made."""
        self._nodes = tuple(config.nodes)
        return await self._hand_offs.latest(WAIT_S)

    async def _ask(self, node: Node) -> Asked:
        caller = Http1Caller()
        try:
            answers = await ask_nodes(caller, [node], LIMIT_S)
        finally:
            await caller.close()
        answer, now_ms = answers[node.id], self._clock.now_ms()
        if not fault_of(answer):
            _ = self._since_ms.pop(node, None)
            return Asked(answer, now_ms)
        return Asked(answer, now_ms, self._since_ms.setdefault(node, now_ms))

    async def _count(self) -> HandOffs:
        return await asyncio.to_thread(self._read, self._nodes)

    def _read(self, nodes: tuple[str, ...]) -> HandOffs:
        since_ms = self._clock.now_ms() - DAY_MS
        received = RunFilter(source="peer", since_ms=since_ms)
        try:
            return HandOffs(
                {node: self._sent(node, since_ms) for node in nodes},
                self._number(received),
                self._samples.of(received),
            )
        except JournalError as error:
            return HandOffs(problem=str(error))

    def _sent(self, node: str, since_ms: int) -> Sent:
        taken = RunFilter(node=node, states=(State.HANDED_OFF,), since_ms=since_ms)
        in_doubt = RunFilter(node=node, states=(State.OFFERED,))
        newest = self._history.find(taken, limit=1, within_s=COUNT_WITHIN_S).runs
        last_ms = max((run.settled_ms or run.accepted_ms for run in newest), default=None)
        return Sent(self._number(taken), self._number(in_doubt), last_ms)

    def _number(self, wanted: RunFilter) -> Count:
        return self._history.count(wanted, most=MAX_COUNTED, within_s=COUNT_WITHIN_S)


def own_store(config: Config) -> str | None:
    """The id of the state folder; None if it is not known. It reads the disk."""
    try:
        return existing_store_id(Path(config.state_path))
    except (OSError, NodeIdUnreadable):
        return None
