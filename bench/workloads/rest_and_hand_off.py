"""Triggers by REST instead of MQTT, and hand-offs to a second node."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

from bench.measure import Figure, measure_round
from bench.node import Node
from bench.processes import HOST
from bench.stage import Stage, cpu_s, wait_until
from bench.systems import RUNTIME_MANAGER, System, history_waiter, node_system


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure triggers by REST at one node, then hand-offs between two other nodes."""
    rounds, seconds, count = (1, 2, 2_000) if quick else (3, 5, 10_000)
    yield from _measure_rest(stage, seconds, rounds)
    yield from _measure_hand_off(stage, count, rounds)


def _measure_rest(stage: Stage, seconds: int, rounds: int) -> Iterator[Figure]:
    """Measure rounds. In each round, wrk sends triggers by REST for ``seconds`` seconds."""
    script = stage.folder / "trigger.lua"
    script.write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = \'{'
        '"id_flow": "1", "is_load_balancing": false, "payload": "0x03abcdefghil"}\'\n'
    )
    rates, cpu_us, answer_p99_ms = list[float](), list[float](), list[float]()
    with Node(stage, "rest", mode="api").serving() as node:
        url = f"http://{HOST}:{node.rest_port}/startrm"
        for _ in range(rounds):
            accepted_before, cpu_before_s = node.count("accepted"), cpu_s(node.pid)
            start_s = time.time()
            output = subprocess.run(
                ["wrk", "-t1", "-c64", f"-d{seconds}s", "--latency", "-s", str(script), url],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            wait_until(lambda: node.count("settled") == node.count("accepted"), within_s=120)
            runs, duration_s = node.count("accepted") - accepted_before, time.time() - start_s
            rates.append(runs / duration_s)
            cpu_us.append((cpu_s(node.pid) - cpu_before_s) / runs * 1e6)
            answer_p99_ms.append(_milliseconds(re.search(r"99%\s+([\d.]+)(us|ms|s)", output)))
    yield Figure("5", RUNTIME_MANAGER, "REST triggers: flows/s", "", rates, more_is_better=True,
                 note="64 connections; measured until every run has ended")  # fmt: skip
    yield Figure("5", RUNTIME_MANAGER, "REST triggers: CPU time per flow", "µs", cpu_us)
    quantity = "REST triggers: time from request to response, p99"
    yield Figure("5", RUNTIME_MANAGER, quantity, "ms", answer_p99_ms)


def _milliseconds(duration: re.Match[str] | None) -> float:
    """A duration in the output of wrk, such as 1.5ms. Group 1 is its number, group 2 its unit."""
    number, unit = duration.groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def _measure_hand_off(stage: Stage, count: int, rounds: int) -> Iterator[Figure]:
    """Measure rounds. In each round, a node hands off ``count`` runs to another node."""
    receiver = Node(stage, "receiver", mode="api")
    sender = Node(stage, "sender", balancer_port=stage.other_node_port)
    sender.add_peer(receiver)
    with receiver.serving(), sender.serving():
        both_nodes = System(
            "both",
            node_system(sender, 0).topic,
            [sender.pid, receiver.pid],
            count,
            "",
            wait_for_history=history_waiter(sender, receiver),
        )
        measured = [measure_round(stage, both_nodes) for _ in range(rounds)]
        handed_off = sender.select_number("SELECT count(*) FROM runs WHERE state = 'handed-off'")
    rates = [r.flows_per_s for r in measured]
    note = f"{handed_off:,} of {count * rounds:,} runs handed off"
    yield Figure(
        "5", RUNTIME_MANAGER, "runs handed off: flows/s", "", rates, more_is_better=True, note=note
    )
    cpu_us = [r.cpu_us for r in measured]
    yield Figure(
        "5", RUNTIME_MANAGER, "runs handed off: CPU time per flow, sum of both nodes", "µs", cpu_us
    )
    waits_ms = [r.wait_ms(99) for r in measured]
    yield Figure(
        "5", RUNTIME_MANAGER, "runs handed off: time from publish to outcome, p99", "ms", waits_ms
    )
