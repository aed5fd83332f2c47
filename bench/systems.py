"""The systems that are measured: the Runtime Manager, and the peers that can run here."""

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

RUNTIME_MANAGER = "Runtime Manager"
PEERS: tuple[Peer, ...] = (NodeRed(), CeleryTask(), DbosWorkflow(), BareLoop())


@dataclass
class System:
    """A running program. For each trigger on its topic, it executes flow 1."""

    name: str
    topic: str
    pids: Sequence[int]
    count: int  # of triggers in a round
    durable_data: str  # names the data that is kept after a power loss
    disk: Disk | None = None  # None: written bytes are not measured
    # Waits until the history has more runs: as many as the argument says. The CPU time for writing
    # them counts, too.
    wait_for_history: Callable[[int], None] | None = None
    # Returns when the newest runs were settled, in seconds since 1970, by payload. The argument is
    # the number of runs. None if the system does not record these times.
    outcomes: Callable[[int], dict[str, float]] | None = None

    def written_bytes(self) -> int:
        """Bytes written to the disk so far; 0 if the system has no disk."""
        return self.disk.written_bytes(*self.pids) if self.disk else 0


def node_system(node: Node, count: int, name: str = RUNTIME_MANAGER) -> System:
    """The system of a running node. A round has ``count`` triggers."""
    return System(
        name, node.topic, [node.pid], count, "trigger, steps, outcome", node.disk,
        history_waiter(node), node.outcomes,
    )  # fmt: skip


def history_waiter(*nodes: Node) -> Callable[[int], None]:
    """Make a function that waits until n more runs are settled in the history of each node.

    n is the argument of the function.
    """
    run_counts = {node: node.count("accepted") for node in nodes}

    def wait(more_runs: int) -> None:
        for node in nodes:
            run_counts[node] += more_runs
            wait_until(
                lambda node=node: node.count("settled") >= run_counts[node],
                within_s=60,
                every_s=0.05,
            )

    return wait


def start_peers(
    stage: Stage, stack: ExitStack, count: int, slow_count: int, peers: Sequence[Peer] = PEERS,
    *, disks: bool = False,
) -> list[System]:  # fmt: skip
    """Start the peers that can run here, and print why the others cannot.

    A round has ``count`` triggers, or ``slow_count`` if the peer is slow, but at most the peer's
    `max_triggers`. If ``disks`` is set, each peer gets a separate disk. ``stack`` stops the peers.
    """
    started = []
    for peer in peers:
        reason = peer.missing_reason()
        if reason is not None:
            print(f"   a peer is not measured: {reason}", flush=True)
            continue
        peer.install()
        name = type(peer).__name__
        topic = f"bench/{name}"
        disk = stage.disk(name) if disks else None
        folder = disk.folder if disk else stage.folder / name
        folder.mkdir(exist_ok=True)
        pids = stack.enter_context(peer.start(folder, stage.nginx_port, stage.broker_port, topic))
        wanted_count = slow_count if peer.is_slow else count
        peer_count = min(wanted_count, peer.max_triggers)
        started.append(System(peer.name, topic, pids, peer_count, peer.durable_data, disk))
    return started
