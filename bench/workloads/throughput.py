"""Flow 1 at full speed: the Runtime Manager, its peers, and wrk as the upper limit."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

from bench.measure import Figure, Round, one_round, quiet_round
from bench.node import Node
from bench.peers.node_red.peer import NodeRed
from bench.processes import HOST
from bench.stage import Stage, memory_mib
from bench.systems import RUNTIME_MANAGER, System, node_system, start_peers

CALLS_PER_FLOW = 4
NODE_RED = "Node-RED"
SLOWEST = ("Celery", "DBOS")
SLOWEST_ROUNDS = 3  # the slowest peers are measured in fewer rounds


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure systems in turns, so that other programs disturb all of them alike.

    Node-RED reads all triggers at once. It is faster with fewer triggers, and when it is warm. So
    the Runtime Manager and Node-RED are measured again at the end, when both are warm: with as many
    triggers as Node-RED can handle, and with fewer.
    """
    rounds, count, slow_count = (2, 4_000, 4_000) if quick else (5, 20_000, 5_000)
    warm_counts = () if quick else (min(count, NodeRed().max_triggers), slow_count)
    with ExitStack() as stack:
        node = stack.enter_context(Node(stage, "throughput").serving())
        systems = [node_system(node, count), *start_peers(stage, stack, count, slow_count)]
        idle_mib = {system.name: memory_mib(*system.pids) for system in systems}
        for system in systems:  # to warm up
            one_round(stage, system, max(system.count // 10, 50))
        wrk_rates, measured = list[float](), {system.name: list[Round]() for system in systems}
        for number in range(rounds):
            wrk_rates.append(wrk_calls_per_s(stage))
            for system in systems:
                if number < SLOWEST_ROUNDS or not system.name.startswith(SLOWEST):
                    measured[system.name].append(quiet_round(stage, system))
        warm_systems = [
            s for s in systems if s.name == RUNTIME_MANAGER or s.name.startswith(NODE_RED)
        ]
        warm_rounds = [
            [[quiet_round(stage, system, at_once) for system in warm_systems] for _ in range(3)]
            for at_once in warm_counts
        ]
    yield Figure("1", "wrk, 32 connections", "calls/s", "", wrk_rates)
    for system in systems:
        yield from _system_figures(system, measured[system.name], idle_mib[system.name])
    yield from _ratios(measured, wrk_rates)
    for at_once, rounds_of_both in zip(warm_counts, warm_rounds, strict=True):
        yield from _warm_figures(at_once, rounds_of_both)


def wrk_calls_per_s(stage: Stage) -> float:
    """The upper limit of this machine: how many calls of a component wrk makes in a second."""
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
    cpu_bounds = (250, 150) if system.name == RUNTIME_MANAGER else ()
    note = f"{system.count:,} triggers a round; durable: {system.durable}"
    name = system.name
    rates = [r.flows_per_s for r in rounds]
    yield Figure("1", name, "flows/s", "", rates, more_is_better=True, note=note)
    yield Figure("1", name, "CPU per flow", "µs", [r.cpu_us for r in rounds], *cpu_bounds)
    for percentile in (50, 99):
        waits_ms = [r.wait_ms(percentile) for r in rounds]
        yield Figure("1", name, f"time from publish to outcome, p{percentile}", "ms", waits_ms)
    yield Figure("1", name, "memory, idle", "MiB", [idle_mib])
    yield Figure("1", name, "memory, peak", "MiB", [max(r.peak_mib for r in rounds)])


def _ratios(measured: dict[str, list[Round]], wrk_rates: list[float]) -> Iterator[Figure]:
    """The figures that compare the Runtime Manager with wrk and with each peer."""
    own_rounds = measured[RUNTIME_MANAGER]
    percents = [
        100 * r.flows_per_s * CALLS_PER_FLOW / wrk_rate
        for r, wrk_rate in zip(own_rounds, wrk_rates, strict=True)
    ]
    what = "calls/s, relative to wrk"
    yield Figure("1", RUNTIME_MANAGER, what, "%", percents, 12, 25, more_is_better=True)
    for name, peer_rounds in measured.items():
        if name == RUNTIME_MANAGER:
            continue
        pairs = list(zip(own_rounds, peer_rounds, strict=False))
        has_bounds = name.startswith(NODE_RED)
        yield Figure("1", RUNTIME_MANAGER, f"flows/s ÷ flows/s of {name}", "×",
                     [own.flows_per_s / peer.flows_per_s for own, peer in pairs],
                     *((8, 15) if has_bounds else ()), more_is_better=True)  # fmt: skip
        what = f"CPU per flow of {name} ÷ CPU per flow of {RUNTIME_MANAGER}"
        yield Figure("1", RUNTIME_MANAGER, what, "×",
                     [peer.cpu_us / own.cpu_us for own, peer in pairs],
                     *((14, 25) if has_bounds else ()), more_is_better=True)  # fmt: skip


def _warm_figures(at_once: int, rounds: list[list[Round]]) -> Iterator[Figure]:
    """The figures of warm rounds.

    Each item of ``rounds`` has a round of the Runtime Manager and, if it runs here, of Node-RED.
    """
    names = (RUNTIME_MANAGER, NODE_RED)
    for name, system_rounds in zip(names, zip(*rounds, strict=True), strict=False):
        cpu_us = [r.cpu_us for r in system_rounds]
        yield Figure("1", name, f"warm, {at_once:,} triggers at once: CPU per flow", "µs", cpu_us)
    ratios = [peer.cpu_us / own.cpu_us for own, *peers in rounds for peer in peers]
    if ratios:
        ratio = f"CPU per flow of {NODE_RED} ÷ CPU per flow of {RUNTIME_MANAGER}"
        what = f"warm, {at_once:,} triggers at once: {ratio}"
        yield Figure("1", RUNTIME_MANAGER, what, "×", ratios, more_is_better=True)
