"""Flow 1 at full speed: the Runtime Manager, its peers, and wrk as the upper limit."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

from bench.measure import NO_BOUNDS, Bounds, Figure, Round, measure_quiet_round, measure_round
from bench.node import Node
from bench.peers.node_red.peer import NodeRed
from bench.processes import HOST
from bench.stage import Stage, memory_mib
from bench.systems import RUNTIME_MANAGER, System, node_system, start_peers

CALLS_PER_FLOW = 4
NODE_RED = "Node-RED"
SLOWEST = ("Celery", "DBOS")
SLOWEST_ROUNDS = 3  # the peers in SLOWEST are measured in only so many rounds
CPU_US_BOUNDS = Bounds(bound=250, aim=150)
CALLS_PERCENT_BOUNDS = Bounds(bound=12, aim=25)  # calls/s, relative to wrk
# The ratios to Node-RED, of flows/s and of CPU time per flow.
SPEED_RATIO_BOUNDS = Bounds(bound=8, aim=15)
CPU_RATIO_BOUNDS = Bounds(bound=14, aim=25)


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure systems in turns, so that other programs disturb all of them alike.

    Node-RED reads all triggers at once, so it is faster if a round has fewer triggers. It also
    becomes faster with each round. So the Runtime Manager and Node-RED are measured again at the
    end: with as many triggers as Node-RED can handle, and with fewer.
    """
    rounds, count, slow_count = (2, 4_000, 4_000) if quick else (5, 20_000, 5_000)
    warm_counts = () if quick else (min(count, NodeRed().max_triggers), slow_count)
    with ExitStack() as stack:
        node = stack.enter_context(Node(stage, "throughput").serving())
        systems = [node_system(node, count), *start_peers(stage, stack, count, slow_count)]
        idle_mib = {system.name: memory_mib(*system.pids) for system in systems}
        for system in systems:  # this round warms up the system
            measure_round(stage, system, max(system.count // 10, 50))
        wrk_rates, measured = list[float](), {system.name: list[Round]() for system in systems}
        for number in range(rounds):
            wrk_rates.append(wrk_calls_per_s(stage))
            for system in systems:
                if number < SLOWEST_ROUNDS or not system.name.startswith(SLOWEST):
                    measured[system.name].append(measure_quiet_round(stage, system))
        warm_systems = [
            system
            for system in systems
            if system.name == RUNTIME_MANAGER or system.name.startswith(NODE_RED)
        ]
        warm_rounds = [
            [
                [measure_quiet_round(stage, system, at_once) for system in warm_systems]
                for _ in range(3)
            ]
            for at_once in warm_counts
        ]
    yield Figure("1", "wrk, 32 connections", "calls/s", "", wrk_rates)
    for system in systems:
        yield from _system_figures(system, measured[system.name], idle_mib[system.name])
    yield from _ratios(measured, wrk_rates)
    for at_once, rounds_of_both in zip(warm_counts, warm_rounds, strict=True):
        yield from _warm_figures(at_once, rounds_of_both)


def wrk_calls_per_s(stage: Stage) -> float:
    """How many HTTP calls to nginx wrk makes in a second: the upper limit of this machine."""
    script = stage.folder / "post.lua"
    script.write_text(
        'wrk.method = "POST"\nwrk.body = \'{"payload": ["0x03abcdefghil"]}\'\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
    )
    output = subprocess.run(
        ["wrk", "-t1", "-c32", "-d3s", "-s", str(script), f"http://{HOST}:{stage.nginx_port}/endpoint1"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])


def _system_figures(system: System, rounds: list[Round], idle_mib: float) -> Iterator[Figure]:
    cpu_bounds = CPU_US_BOUNDS if system.name == RUNTIME_MANAGER else NO_BOUNDS
    note = f"{system.count:,} triggers a round; kept after a power loss: {system.durable_data}"
    name = system.name
    rates = [r.flows_per_s for r in rounds]
    yield Figure("1", name, "flows/s", "", rates, more_is_better=True, note=note)
    yield Figure("1", name, "CPU time per flow", "µs", [r.cpu_us for r in rounds], *cpu_bounds)
    for percentile in (50, 99):
        waits_ms = [r.wait_ms(percentile) for r in rounds]
        yield Figure("1", name, f"time from publish to outcome, p{percentile}", "ms", waits_ms)
    yield Figure("1", name, "memory when idle", "MiB", [idle_mib])
    yield Figure("1", name, "peak memory", "MiB", [max(r.peak_mib for r in rounds)])


def _ratios(measured: dict[str, list[Round]], wrk_rates: list[float]) -> Iterator[Figure]:
    """The figures that compare the Runtime Manager with wrk and with each peer."""
    own_rounds = measured[RUNTIME_MANAGER]
    percents = [
        100 * r.flows_per_s * CALLS_PER_FLOW / wrk_rate
        for r, wrk_rate in zip(own_rounds, wrk_rates, strict=True)
    ]
    quantity = "calls/s, relative to wrk"
    yield Figure("1", RUNTIME_MANAGER, quantity, "%", percents, *CALLS_PERCENT_BOUNDS,
                 more_is_better=True)  # fmt: skip
    for name, peer_rounds in measured.items():
        if name == RUNTIME_MANAGER:
            continue
        pairs = list(zip(own_rounds, peer_rounds, strict=False))
        speed_bounds = cpu_bounds = NO_BOUNDS
        if name.startswith(NODE_RED):
            speed_bounds, cpu_bounds = SPEED_RATIO_BOUNDS, CPU_RATIO_BOUNDS
        yield Figure("1", RUNTIME_MANAGER, f"flows/s, divided by the flows/s of {name}", "×",
                     [r.flows_per_s / peer_round.flows_per_s for r, peer_round in pairs],
                     *speed_bounds, more_is_better=True)  # fmt: skip
        quantity = f"CPU time per flow: {name}, divided by the {RUNTIME_MANAGER}"
        yield Figure("1", RUNTIME_MANAGER, quantity, "×",
                     [peer_round.cpu_us / r.cpu_us for r, peer_round in pairs],
                     *cpu_bounds, more_is_better=True)  # fmt: skip


def _warm_figures(at_once: int, rounds: list[list[Round]]) -> Iterator[Figure]:
    """The figures of warm rounds with ``at_once`` triggers.

    Each item of ``rounds`` is a round of the Runtime Manager and, if it was measured, of Node-RED.
    """
    conditions = f"warm, {at_once:,} triggers at once"
    names = (RUNTIME_MANAGER, NODE_RED)
    for name, system_rounds in zip(names, zip(*rounds, strict=True), strict=False):
        cpu_us = [r.cpu_us for r in system_rounds]
        yield Figure("1", name, f"{conditions}: CPU time per flow", "µs", cpu_us)
    ratios = [peer.cpu_us / r.cpu_us for r, *peer_rounds in rounds for peer in peer_rounds]
    if ratios:
        ratio = f"CPU time per flow: {NODE_RED}, divided by the {RUNTIME_MANAGER}"
        quantity = f"{conditions}: {ratio}"
        yield Figure("1", RUNTIME_MANAGER, quantity, "×", ratios, more_is_better=True)
