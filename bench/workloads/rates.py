"""Flow 1 at the rates of small nodes: CPU time, latency, and bytes written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection

from bench.disks import Disk, LoopDisk
from bench.measure import Figure, Round, one_round, percentile_of, quiet_round
from bench.node import Node
from bench.peers.bare_loop.peer import BareLoop
from bench.peers.node_red.peer import NodeRed
from bench.peers.restate.peer import Restate
from bench.processes import HOST
from bench.stage import Stage
from bench.systems import OURS, System, ours, start_peers
from bench.workloads.throughput import CALLS_PER_FLOW

RATES = (20, 100, 500, 2_000)
QUICK_RATES = (20, 500)
HALF_SPEED, FULL_SPEED = "half speed", "full speed"
MIN_TRIGGERS = 200  # in a round, as a percentile of fewer is not exact
STEP = f"{OURS}, step"
KEEPS_UP_SHARE = 0.9  # a system keeps up if it reaches this share of the rate

# By rate: the bound and the aim of the median.
CPU_US = {100: (800, 550), 500: (520, 350)}
AGAINST = (  # our mode, the peer, and bounds by rate
    (OURS, "Node-RED", {100: (4, 6), 500: (4, 6)}),
    (STEP, "Restate", {20: (6, 9), 500: (4, 6)}),
)
ADDED_P99_MS = (10, 5)

Found = dict[str, list[Round]]  # by system


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure each system at each rate, in turns; half speed is half of its own full speed."""
    rounds, seconds, count, slow_count = (1, 1, 1_000, 300) if quick else (3, 6, 20_000, 5_000)
    min_count = MIN_TRIGGERS // 10 if quick else MIN_TRIGGERS
    with ExitStack() as stack:
        systems = _systems(stage, stack, count, slow_count)
        own_ms = CALLS_PER_FLOW * 1000 * component_s(stage)
        for system in systems:  # to warm up
            one_round(stage, system)
        at_full_speed = {system.name: [quiet_round(stage, system)] for system in systems}
        half = {name: round(found[0].flows_per_s / 2) for name, found in at_full_speed.items()}
        for rate in QUICK_RATES if quick else RATES:
            rates = dict.fromkeys(half, rate)
            found = _in_turns(stage, systems, rates, rounds, seconds, min_count)
            yield from _load_figures(f"{rate:,}/s", systems, found, rates)
            yield from _bounded_figures(rate, found)
        found = _in_turns(stage, systems, half, rounds, seconds, min_count)
        yield from _load_figures(HALF_SPEED, systems, found, half)
        yield from _load_figures(FULL_SPEED, systems, at_full_speed, {})
    yield Figure("2", "the components", "time of four calls, one after another", "ms", [own_ms])
    for percentile, bounds in ((50, ()), (99, ADDED_P99_MS)):
        added = [each.wait_ms(percentile) - own_ms for each in found[OURS]]
        what = f"{HALF_SPEED}: latency without the time of the components, p{percentile}"
        yield Figure("2", OURS, what, "ms", added, *bounds)


def _systems(stage: Stage, stack: ExitStack, count: int, slow_count: int) -> list[System]:
    """Start the systems, each on a disk of its own."""
    systems = []
    for name, durable in ((OURS, "accept"), (STEP, "step")):
        disk = stage.disk(f"disk-{durable}")
        node = Node(stage, durable, disk=disk, topic=f"bench/{durable}")
        node.set_durable(durable)
        stack.enter_context(node.serving())
        systems.append(ours(node, count, name))
    peers = (NodeRed(), Restate(), BareLoop())
    return systems + start_peers(stage, stack, count, slow_count, peers, disks=True)


def _in_turns(
    stage: Stage, systems: list[System], rates: dict[str, int], rounds: int, seconds: int,
    min_count: int,
) -> Found:  # fmt: skip
    found: Found = {system.name: [] for system in systems}
    for _ in range(rounds):
        for system in systems:
            rate = rates[system.name]
            count = max(rate * seconds, min_count)
            found[system.name].append(quiet_round(stage, system, count, rate))
    return found


def _load_figures(
    load: str, systems: list[System], found: Found, rates: dict[str, int]
) -> Iterator[Figure]:
    for system in systems:
        name, rounds = system.name, found[system.name]
        note = _note(load, rounds, rates.get(name))
        columns = {
            ("CPU per flow", "µs"): [each.cpu_us for each in rounds],
            ("p50", "ms"): [each.wait_ms(50) for each in rounds],
            ("p99", "ms"): [each.wait_ms(99) for each in rounds],
            ("written per flow", "KiB"): [each.written_kib for each in rounds],
        }
        for (what, unit), values in columns.items():
            yield Figure("2", name, what, unit, values, load=load, note=note)
            note = _disk_note(system.disk) if what == "p99" else ""


def _note(load: str, rounds: list[Round], rate: int | None) -> str:
    """The note beside a rate."""
    reached = percentile_of([each.flows_per_s for each in rounds], 50)
    if rate is None:
        return f"{reached:,.0f} flows/s"
    if reached < KEEPS_UP_SHARE * rate:
        return f"did not keep up: {reached:,.0f} flows/s"
    return f"{rate:,} triggers a second" if load == HALF_SPEED else ""


def _disk_note(disk: Disk) -> str:
    """A note where the bytes written were not counted at the device."""
    return "" if isinstance(disk, LoopDisk) else f"written: {disk.counts}"


def _bounded_figures(rate: int, found: Found) -> Iterator[Figure]:
    """The figures of a rate that have bounds."""
    if rate in CPU_US:
        took = [each.cpu_us for each in found[OURS]]
        yield Figure("2", OURS, f"{rate}/s: CPU per flow", "µs", took, *CPU_US[rate])
    for mine, peer, bounds in AGAINST:
        for name, rounds in found.items():
            if name.startswith(peer) and rate in bounds:
                against = [b.cpu_us / a.cpu_us for a, b in zip(found[mine], rounds, strict=True)]
                what = f"{rate}/s: CPU per flow of {name} ÷ own"
                yield Figure("2", mine, what, "×", against, *bounds[rate], more=True)


def component_s(stage: Stage) -> float:
    """The median time of a call to nginx, from a plain client on a kept connection."""
    connection = HTTPConnection(HOST, stage.nginx)
    took = []
    for _ in range(500):
        began = time.perf_counter()
        connection.request("POST", "/endpoint1", b'{"payload": ["0x03abcdefghil"]}')
        connection.getresponse().read()
        took.append(time.perf_counter() - began)
    connection.close()
    return percentile_of(took, 50)
