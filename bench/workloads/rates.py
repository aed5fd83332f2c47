"""Flow 1 at the trigger rates of small nodes: CPU time, latency, and bytes written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection

from bench.disks import Disk, LoopDisk
from bench.measure import (
    NO_BOUNDS,
    Bounds,
    Figure,
    Round,
    measure_quiet_round,
    measure_round,
    percentile_of,
)
from bench.node import Node
from bench.peers.bare_loop.peer import BareLoop
from bench.peers.node_red.peer import NodeRed
from bench.peers.restate.peer import Restate
from bench.processes import HOST
from bench.stage import Stage
from bench.systems import RUNTIME_MANAGER, System, node_system, start_peers
from bench.workloads.throughput import CALLS_PER_FLOW

RATES = (20, 100, 500, 2_000)
QUICK_RATES = (20, 500)
HALF_SPEED, FULL_SPEED = "half speed", "full speed"
MIN_TRIGGERS = 200  # in a round; percentiles of fewer values would not be exact
STEP_SYSTEM = f"{RUNTIME_MANAGER}, step"  # flow 1 with DURABLE step
KEEPS_UP_SHARE = 0.9  # if flows/s are below this share of the rate, a note says so

# By rate: the bounds of the CPU time of a flow.
CPU_US_BOUNDS = {100: Bounds(bound=800, aim=550), 500: Bounds(bound=520, aim=350)}
# System, peer, and by rate: the bounds of the CPU time of the peer, divided by the system's.
RATIO_BOUNDS = (
    (
        RUNTIME_MANAGER, "Node-RED",
        {100: Bounds(bound=4, aim=6), 500: Bounds(bound=4, aim=6)},
    ),
    (
        STEP_SYSTEM, "Restate",
        {20: Bounds(bound=6, aim=9), 500: Bounds(bound=4, aim=6)},
    ),
)  # fmt: skip
ADDED_P99_MS_BOUNDS = Bounds(bound=10, aim=5)

RoundsBySystem = dict[str, list[Round]]


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure each system at each rate. At one rate, the systems take turns.

    "Half speed" is half of the triggers per second that a system handled at full speed.
    """
    rounds, seconds, count, slow_count = (1, 1, 1_000, 300) if quick else (3, 6, 20_000, 5_000)
    min_count = MIN_TRIGGERS // 10 if quick else MIN_TRIGGERS
    with ExitStack() as stack:
        systems = _systems(stage, stack, count, slow_count)
        calls_ms = CALLS_PER_FLOW * 1000 * component_s(stage)
        for system in systems:  # this round warms up the system
            measure_round(stage, system)
        at_full_speed = {system.name: [measure_quiet_round(stage, system)] for system in systems}
        half_rates = {
            name: round(measured[0].flows_per_s / 2) for name, measured in at_full_speed.items()
        }
        all_rates = QUICK_RATES if quick else RATES
        for rate in all_rates:
            rates = dict.fromkeys(half_rates, rate)
            at_rate = _measure_in_turns(stage, systems, rates, rounds, seconds, min_count)
            yield from _rate_figures(f"{rate:,}/s", systems, at_rate, rates)
            yield from _bounded_figures(rate, at_rate)
        at_half_speed = _measure_in_turns(stage, systems, half_rates, rounds, seconds, min_count)
        yield from _rate_figures(HALF_SPEED, systems, at_half_speed, half_rates)
        yield from _rate_figures(FULL_SPEED, systems, at_full_speed, {})
    yield Figure("2", "the components", "time of four calls, one after another", "ms", [calls_ms])
    for percentile, bounds in ((50, NO_BOUNDS), (99, ADDED_P99_MS_BOUNDS)):
        added_ms = [each.wait_ms(percentile) - calls_ms for each in at_half_speed[RUNTIME_MANAGER]]
        quantity = f"{HALF_SPEED}: latency without the time of the components, p{percentile}"
        yield Figure("2", RUNTIME_MANAGER, quantity, "ms", added_ms, *bounds)


def _systems(stage: Stage, stack: ExitStack, count: int, slow_count: int) -> list[System]:
    """Start the systems, each on a disk of its own."""
    systems = []
    for name, durable_mode in ((RUNTIME_MANAGER, "accept"), (STEP_SYSTEM, "step")):
        disk = stage.disk(f"disk-{durable_mode}")
        node = Node(stage, durable_mode, disk=disk, topic=f"bench/{durable_mode}")
        node.set_durable(durable_mode)
        stack.enter_context(node.serving())
        systems.append(node_system(node, count, name))
    peers = (NodeRed(), Restate(), BareLoop())
    return systems + start_peers(stage, stack, count, slow_count, peers, disks=True)


def _measure_in_turns(
    stage: Stage, systems: list[System], rates: dict[str, int], rounds: int, seconds: int,
    min_count: int,
) -> RoundsBySystem:  # fmt: skip
    """Measure rounds of about ``seconds`` seconds. ``rates``: triggers a second, by system."""
    measured: RoundsBySystem = {system.name: [] for system in systems}
    for _ in range(rounds):
        for system in systems:
            rate = rates[system.name]
            count = max(rate * seconds, min_count)
            measured[system.name].append(measure_quiet_round(stage, system, count, rate))
    return measured


def _rate_figures(
    rate_name: str, systems: list[System], measured: RoundsBySystem, rates: dict[str, int]
) -> Iterator[Figure]:
    """The figures for the table by trigger rate. ``rate_name`` is the text in its first column."""
    for system in systems:
        name, rounds = system.name, measured[system.name]
        rate_note = _rate_note(rate_name, rounds, rates.get(name))
        latency = "time from publish to outcome"
        for quantity, unit, values, note in (
            ("CPU time per flow", "µs", [each.cpu_us for each in rounds], rate_note),
            (f"{latency}, p50", "ms", [each.wait_ms(50) for each in rounds], ""),
            (f"{latency}, p99", "ms", [each.wait_ms(99) for each in rounds], ""),
            (
                "bytes written per flow", "KiB", [each.written_kib for each in rounds],
                _disk_note(system.disk),
            ),
        ):  # fmt: skip
            yield Figure("2", name, quantity, unit, values, rate_name=rate_name, note=note)


def _rate_note(rate_name: str, rounds: list[Round], rate: int | None) -> str:
    """The note about the rate of a system.

    At full speed (``rate`` is None), the note is the rate that was reached. If the system did not
    keep up, the note says so. Otherwise the note is the rate of the triggers at half speed, and
    empty at other rates.
    """
    reached = percentile_of([each.flows_per_s for each in rounds], 50)
    if rate is None:
        return f"{reached:,.0f} flows/s"
    if reached < KEEPS_UP_SHARE * rate:
        return f"did not keep up: only {reached:,.0f} flows/s ended"
    return f"{rate:,} triggers a second" if rate_name == HALF_SPEED else ""


def _disk_note(disk: Disk) -> str:
    """Empty if written bytes are counted as sectors of the device; else how they are counted."""
    return "" if isinstance(disk, LoopDisk) else f"bytes are counted as {disk.counted_as}"


def _bounded_figures(rate: int, measured: RoundsBySystem) -> Iterator[Figure]:
    """The figures with bounds, at one rate."""
    if rate in CPU_US_BOUNDS:
        cpu_us = [r.cpu_us for r in measured[RUNTIME_MANAGER]]
        quantity = f"{rate}/s: CPU time per flow"
        yield Figure("2", RUNTIME_MANAGER, quantity, "µs", cpu_us, *CPU_US_BOUNDS[rate])
    for system, peer, bounds in RATIO_BOUNDS:
        for name, peer_rounds in measured.items():
            if name.startswith(peer) and rate in bounds:
                pairs = zip(measured[system], peer_rounds, strict=True)
                ratios = [peer_round.cpu_us / r.cpu_us for r, peer_round in pairs]
                quantity = f"{rate}/s: CPU time per flow: {name}, divided by {system}"
                yield Figure("2", system, quantity, "×", ratios, *bounds[rate], more_is_better=True)


def component_s(stage: Stage) -> float:
    """The median time of an HTTP call to nginx on a kept connection, in seconds."""
    connection = HTTPConnection(HOST, stage.nginx_port)
    seconds = []
    for _ in range(500):
        start_s = time.perf_counter()
        connection.request("POST", "/endpoint1", b'{"payload": ["0x03abcdefghil"]}')
        connection.getresponse().read()
        seconds.append(time.perf_counter() - start_s)
    connection.close()
    return percentile_of(seconds, 50)
