"""The systems that are measured: this program, and those of its peers that can run here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench.disks import Disk
from bench.node import Node
from bench.peers import Peer
from bench.peers.bare_loop.peer import BareLoop
from bench.peers.celery_task.peer import CeleryTask
from bench.peers.dbos_workflow.peer import DbosWorkflow
from bench.peers.node_red.peer import NodeRed
from bench.stage import Stage, wait_until

OURS = "Runtime Manager"
PEERS: tuple[Peer, ...] = (NodeRed(), CeleryTask(), DbosWorkflow(), BareLoop())


@dataclass
class System:
    """Something that runs flow 1 for each trigger that is published on its topic."""

    name: str
    topic: str
    pids: Sequence[int]
    count: int
    durable: str
    disk: Disk | None = None
    # Waits until this many more runs are in the history, as writing them takes CPU time, too.
    wait_for_history: Callable[[int], None] | None = None
    outcomes: Callable[[int], dict[str, float]] | None = None

    def written(self) -> int:
        """Bytes on its disk so far."""
        return self.disk.written(*self.pids) if self.disk else 0


def ours(node: Node, count: int, name: str = OURS) -> System:
    """A node of this program; its history says when each run was settled."""
    return System(
        name, node.topic, [node.pid], count, "trigger, steps, outcome", node.disk,
        waits_for_history(node), node.outcomes,
    )  # fmt: skip


def waits_for_history(*nodes: Node) -> Callable[[int], None]:
    """Make a function that waits until a number of further runs are settled in each history."""
    expected = {node: node.count("accepted") for node in nodes}

    def wait(runs: int) -> None:
        for node in nodes:
            expected[node] += runs
            wait_until(lambda node=node: node.count("settled") >= expected[node], 60, every_s=0.05)

    return wait


def start_peers(
    stage: Stage, stack: ExitStack, count: int, slow_count: int, peers: Sequence[Peer] = PEERS,
    *, disks: bool = False,
) -> list[System]:  # fmt: skip
    """Start peers. Each gets ``count`` triggers at once, or ``slow_count`` if the peer is slow.

    No peer gets more than its `max_triggers`. With ``disks``, each has a disk of its own. Prints
    which peers cannot run here.
    """
    started = []
    for peer in peers:
        why = peer.missing()
        if why is not None:
            print(f"   left out: {why}", flush=True)
            continue
        peer.install()
        topic = f"bench/{type(peer).__name__}"
        name = type(peer).__name__
        disk = stage.disk(name) if disks else None
        folder = disk.folder if disk else stage.folder / name
        folder.mkdir(exist_ok=True)
        pids = stack.enter_context(peer.start(folder, stage.nginx, stage.broker, topic))
        number = min(slow_count if peer.slow else count, peer.max_triggers)
        started.append(System(peer.name, topic, pids, number, peer.durable, disk))
    return started
