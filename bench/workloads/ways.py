"""Triggers by REST instead of MQTT, and hand-offs to a second node."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

from bench.measure import Figure, one_round
from bench.node import Node
from bench.processes import HOST
from bench.stage import Stage, cpu_s, wait_until
from bench.systems import OURS, System, ours, waits_for_history


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure triggers by REST, then hand-offs, with different nodes."""
    yield from _rest(stage, 2 if quick else 5, 1 if quick else 3)
    yield from _hand_off(stage, 2_000 if quick else 10_000, 1 if quick else 3)


def _rest(stage: Stage, seconds: int, rounds: int) -> Iterator[Figure]:
    script = stage.folder / "trigger.lua"
    script.write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = \'{'
        '"id_flow": "1", "is_load_balancing": false, "payload": "0x03abcdefghil"}\'\n'
    )
    flows, cpu, answers = list[float](), list[float](), list[float]()
    with Node(stage, "rest", mode="api").serving() as node:
        url = f"http://{HOST}:{node.rest}/startrm"
        for _ in range(rounds):
            before, cpu_before, began = node.count("accepted"), cpu_s(node.pid), time.time()
            output = subprocess.run(
                ["wrk", "-t1", "-c64", f"-d{seconds}s", "--latency", "-s", str(script), url],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            wait_until(lambda: node.count("settled") == node.count("accepted"), 120)
            runs, took = node.count("accepted") - before, time.time() - began
            flows.append(runs / took)
            cpu.append((cpu_s(node.pid) - cpu_before) / runs * 1e6)
            answers.append(_milliseconds(re.search(r"99%\s+([\d.]+)(us|ms|s)", output)))
    yield Figure("5", OURS, "REST triggers: flows/s", "", flows, more=True,
                 note="64 connections; measured until every run has ended")  # fmt: skip
    yield Figure("5", OURS, "REST triggers: CPU per flow", "µs", cpu)
    yield Figure("5", OURS, "REST triggers: time from request to response, p99", "ms", answers)


def _milliseconds(found: re.Match[str] | None) -> float:
    return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000}[found[2]]


def _hand_off(stage: Stage, count: int, rounds: int) -> Iterator[Figure]:
    there = Node(stage, "there", mode="api")
    here = Node(stage, "here", balancer=stage.other_node)
    here.add_peer(there)
    with there.serving(), here.serving():
        both = System(
            "both",
            ours(here, 0).topic,
            [here.pid, there.pid],
            count,
            "",
            wait_for_history=waits_for_history(here, there),
        )
        found = [one_round(stage, both) for _ in range(rounds)]
        handed = here.number("SELECT count(*) FROM runs WHERE state = 'handed-off'")
    rates, cpu = [r.flows_per_s for r in found], [r.cpu_us for r in found]
    note = f"{handed:,} of {count * rounds:,} runs handed off"
    yield Figure("5", OURS, "runs handed off: flows/s", "", rates, more=True, note=note)
    yield Figure("5", OURS, "runs handed off: CPU per flow, sum of both nodes", "µs", cpu)
    waits = [r.wait_ms(99) for r in found]
    yield Figure("5", OURS, "runs handed off: time from publish to outcome, p99", "ms", waits)
