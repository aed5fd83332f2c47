"""Flow 1, durable, QoS 1, at full speed: this program, its peers, and wrk as the upper limit."""

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
from bench.systems import OURS, System, ours, start_peers

CALLS_PER_FLOW = 4
NODE_RED = "Node-RED"
SLOWEST = ("Celery", "DBOS")
SLOWEST_ROUNDS = 3  # of the slowest


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure systems in turns, so that other programs disturb all of them alike.

    Node-RED takes all triggers at once: it is faster with fewer, and when it is warm. So it is
    measured again when it is warm, with as many triggers as it can handle, and with fewer.
    """
    rounds, count, slow_count = (2, 4_000, 4_000) if quick else (5, 20_000, 5_000)
    warm_counts = () if quick else (min(count, NodeRed().max_triggers), slow_count)
    with ExitStack() as stack:
        node = stack.enter_context(Node(stage, "throughput").serving())
        systems = [ours(node, count), *start_peers(stage, stack, count, slow_count)]
        idle = {system.name: memory_mib(*system.pids) for system in systems}
        for system in systems:  # to warm up
            one_round(stage, system, max(system.count // 10, 50))
        wrk_rates, found = list[float](), {system.name: list[Round]() for system in systems}
        for number in range(rounds):
            wrk_rates.append(wrk_calls_per_s(stage))
            for system in systems:
                if number < SLOWEST_ROUNDS or not system.name.startswith(SLOWEST):
                    found[system.name].append(quiet_round(stage, system))
        both = [s for s in systems if s.name == OURS or s.name.startswith(NODE_RED)]
        warm = [
            [[quiet_round(stage, system, at_once) for system in both] for _ in range(3)]
            for at_once in warm_counts
        ]
    yield Figure("1", "wrk, 32 connections", "calls/s", "", wrk_rates)
    for system in systems:
        yield from _system_figures(system, found[system.name], idle[system.name])
    yield from _ratios(found, wrk_rates)
    for at_once, pairs in zip(warm_counts, warm, strict=True):
        yield from _warm_figures(at_once, pairs)


def wrk_calls_per_s(stage: Stage) -> float:
    """The limit of this machine: wrk sends the POST of a component call, and nothing else."""
    script = stage.folder / "post.lua"
    script.write_text(
        'wrk.method = "POST"\nwrk.body = \'{"payload": ["0x03abcdefghil"]}\'\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
    )
    output = subprocess.run(
        ["wrk", "-t1", "-c32", "-d3s", "-s", str(script), f"http://{HOST}:{stage.nginx}/endpoint1"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])


def _system_figures(system: System, rounds: list[Round], idle_mib: float) -> Iterator[Figure]:
    of_ours = system.name == OURS
    note = f"{system.count:,} triggers a round; durable: {system.durable}"
    name = system.name
    yield Figure("1", name, "flows/s", "", [r.flows_per_s for r in rounds], more=True, note=note)
    yield Figure("1", name, "CPU per flow", "µs", [r.cpu_us for r in rounds],
                 *((250, 150) if of_ours else ()))  # fmt: skip
    for percentile in (50, 99):
        waits = [r.wait_ms(percentile) for r in rounds]
        yield Figure("1", name, f"time from publish to outcome, p{percentile}", "ms", waits)
    yield Figure("1", name, "memory, idle", "MiB", [idle_mib])
    yield Figure("1", name, "memory, peak", "MiB", [max(r.peak_mib for r in rounds)])


def _ratios(found: dict[str, list[Round]], wrk_rates: list[float]) -> Iterator[Figure]:
    mine = found[OURS]
    against = [
        100 * r.flows_per_s * CALLS_PER_FLOW / f for r, f in zip(mine, wrk_rates, strict=True)
    ]
    yield Figure("1", OURS, "calls/s, relative to wrk", "%", against, 12, 25, more=True)
    for name, rounds in found.items():
        if name == OURS:
            continue
        pairs = list(zip(mine, rounds, strict=False))
        red = name.startswith(NODE_RED)
        yield Figure("1", OURS, f"own flows/s ÷ flows/s of {name}", "×",
                     [a.flows_per_s / b.flows_per_s for a, b in pairs],
                     *((8, 15) if red else ()), more=True)  # fmt: skip
        yield Figure("1", OURS, f"CPU per flow of {name} ÷ own CPU per flow", "×",
                     [b.cpu_us / a.cpu_us for a, b in pairs],
                     *((14, 25) if red else ()), more=True)  # fmt: skip


def _warm_figures(at_once: int, rounds: list[list[Round]]) -> Iterator[Figure]:
    """The figures of the warm rounds: ours, and those of Node-RED if it runs here."""
    for name, of_one in zip((OURS, NODE_RED), zip(*rounds, strict=True), strict=False):
        took = [found.cpu_us for found in of_one]
        yield Figure("1", name, f"warm, {at_once:,} triggers at once: CPU per flow", "µs", took)
    against = [red.cpu_us / mine.cpu_us for mine, *reds in rounds for red in reds]
    if against:
        what = f"warm, {at_once:,} triggers at once: CPU per flow of {NODE_RED} ÷ own CPU per flow"
        yield Figure("1", OURS, what, "×", against, more=True)
