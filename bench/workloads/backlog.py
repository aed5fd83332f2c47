"""A backlog at the broker: whether the node is as fast at the end as at the beginning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from bench.measure import Figure, Round, fill_queue, one_round
from bench.node import Node
from bench.peers.node_red.peer import NodeRed
from bench.stage import Stage, cpu_s, forget_peak, memory_mib, wait_until
from bench.systems import OURS, start_peers

SLICE = 0.15


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """The node gets triggers that wait at the broker. Node-RED gets all triggers at once.

    Node-RED has no session, so no triggers can wait for it.
    """
    rounds, count, slow_count = (1, 10_000, 2_000) if quick else (3, 100_000, 20_000)
    node = Node(stage, "backlog")
    node.start()
    node.stop()
    found = [_work_off(stage, node, count) for _ in range(rounds)]
    note = f"{count:,} triggers queued at the broker"
    yield from _figures(OURS, found, note, (90, 98), (200, 120))
    with ExitStack() as stack:
        for system in start_peers(stage, stack, count, slow_count, [NodeRed()]):
            sent = [one_round(stage, system)]
            note = f"{system.count:,} triggers sent at once"
            yield from _figures(system.name, sent, note, (), ())


def _work_off(stage: Stage, node: Node, count: int) -> Round:
    """Fill the queue of the broker, then start the node and measure until the queue is empty."""
    fill_queue(stage, count)
    first, settled = stage.ended_flows(), node.count("settled")
    node.start()
    forget_peak(node.pid)
    wait_until(lambda: stage.ended_flows() >= first + count)
    wait_until(lambda: node.count("settled") >= settled + count, 60)
    peak, cpu = memory_mib(node.pid, what="VmHWM"), cpu_s(node.pid)
    node.stop()
    ended = stage.end_times(first, count)
    return Round(count, ended[-1] - ended[0], cpu, [], ended, peak)


def _figures(
    name: str, rounds: list[Round], note: str, pace: tuple[float, ...], memory: tuple[float, ...]
) -> Iterator[Figure]:
    yield Figure("3", name, "flows/s", "", [r.flows_per_s for r in rounds], more=True, note=note)
    ends = [100 * r.pace(1 - SLICE, 1) / r.pace(SLICE, 2 * SLICE) for r in rounds]
    what = "flows/s at the end, relative to the beginning"
    yield Figure("3", name, what, "%", ends, *pace, more=True)
    yield Figure("3", name, "peak memory", "MiB", [r.peak_mib for r in rounds], *memory)
