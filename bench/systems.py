"""Who is measured: this project, and whichever of its peers can run here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench.node import TOPIC, Node
from bench.peers import Peer
from bench.peers.bare_loop.peer import BareLoop
from bench.peers.celery_task.peer import CeleryTask
from bench.peers.node_red.peer import NodeRed
from bench.stage import Stage, wait_until

OURS = "Runtime Manager"
PEERS: tuple[Peer, ...] = (NodeRed(), CeleryTask(), BareLoop())


@dataclass
class System:
    """Something that runs flow 1 for each trigger that is published on its topic."""

    name: str
    topic: str
    pids: Sequence[int]
    count: int
    durable: str
    outcomes: Callable[[int], dict[str, float]] | None = None


def ours(node: Node, count: int) -> System:
    """A node of this project: its journal tells when each run was settled."""
    settled_before = node.count("settled")

    def outcomes(runs: int) -> dict[str, float]:
        nonlocal settled_before
        settled_before += runs
        wait_until(lambda: node.count("settled") >= settled_before, 60)
        return node.outcomes(runs)

    return System(OURS, TOPIC, [node.pid], count, "trigger, steps, outcome", outcomes)


def start_peers(
    stage: Stage, within: ExitStack, count: int, of_slow: int, peers: Sequence[Peer] = PEERS
) -> list[System]:
    """Start peers for ``count`` triggers at once, slow ones for ``of_slow``: or what each bears.

    One that cannot run here is said.
    """
    started = []
    for peer in peers:
        why = peer.missing()
        if why is not None:
            print(f"   left out: {why}", flush=True)
            continue
        peer.install()
        topic = f"bench/{type(peer).__name__}"
        folder = stage.folder / type(peer).__name__
        folder.mkdir()
        pids = within.enter_context(peer.start(folder, stage.nginx, stage.broker, topic))
        most = min(of_slow if peer.slow else count, peer.most)
        started.append(System(peer.name, topic, pids, most, peer.durable))
    return started
