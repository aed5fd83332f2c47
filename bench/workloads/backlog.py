"""A backlog at the broker: is a system as fast at the end of the backlog as at the beginning?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from bench.measure import NO_BOUNDS, Bounds, Figure, Round, fill_queue, measure_round
from bench.node import Node
from bench.peers.node_red.peer import NodeRed
from bench.stage import Stage, cpu_s, memory_mib, reset_memory_peak, wait_until
from bench.systems import RUNTIME_MANAGER, start_peers

PART = 0.15  # the speed of this share of the flows is measured, near the beginning and at the end
SPEED_PERCENT_BOUNDS = Bounds(bound=90, aim=98)
MEMORY_MIB_BOUNDS = Bounds(bound=200, aim=120)


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure the node with a queue at the broker, and Node-RED with triggers sent at once.

    Node-RED has no MQTT session, so the broker does not queue triggers for it.
    """
    rounds, count, slow_count = (1, 10_000, 2_000) if quick else (3, 100_000, 20_000)
    node = Node(stage, "backlog")
    node.start()
    node.stop()
    node_rounds = [_round_with_backlog(stage, node, count) for _ in range(rounds)]
    note = f"{count:,} triggers queued at the broker"
    yield from _figures(RUNTIME_MANAGER, node_rounds, note, SPEED_PERCENT_BOUNDS, MEMORY_MIB_BOUNDS)
    with ExitStack() as stack:
        for system in start_peers(stage, stack, count, slow_count, [NodeRed()]):
            peer_rounds = [measure_round(stage, system)]
            note = f"{system.count:,} triggers sent at once"
            yield from _figures(system.name, peer_rounds, note, NO_BOUNDS, NO_BOUNDS)


def _round_with_backlog(stage: Stage, node: Node, count: int) -> Round:
    """Fill the queue of the broker, then start the node and measure until the queue is empty."""
    fill_queue(stage, count)
    ended_before, settled_before = stage.ended_flows(), node.count("settled")
    node.start()
    reset_memory_peak(node.pid)
    wait_until(lambda: stage.ended_flows() >= ended_before + count)
    wait_until(lambda: node.count("settled") >= settled_before + count, within_s=60)
    peak_mib, used_cpu_s = memory_mib(node.pid, field="VmHWM"), cpu_s(node.pid)
    node.stop()
    ended_at = stage.end_times(ended_before, count)
    duration_s = ended_at[-1] - ended_at[0]
    return Round(count, duration_s, used_cpu_s, sent_at=[], ended_at=ended_at, peak_mib=peak_mib)


def _figures(
    name: str,
    rounds: list[Round],
    note: str,
    speed_bounds: Bounds,
    memory_bounds: Bounds,
) -> Iterator[Figure]:
    """The figures of a system."""
    rates = [r.flows_per_s for r in rounds]
    yield Figure("3", name, "flows/s", "", rates, more_is_better=True, note=note)
    percents = [
        100 * r.flows_per_s_between(1 - PART, 1) / r.flows_per_s_between(PART, 2 * PART)
        for r in rounds
    ]
    quantity = "flows/s at the end of the backlog, relative to the beginning"
    yield Figure("3", name, quantity, "%", percents, *speed_bounds, more_is_better=True)
    yield Figure("3", name, "peak memory", "MiB", [r.peak_mib for r in rounds], *memory_bounds)
