"""Measures one round: publishes triggers, waits for the flows, measures CPU time and latencies."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.node import TOPIC
from bench.noise import Noise
from bench.stage import Stage, cpu_s, memory_mib, wait_until
from bench.systems import System

POLL_S = 0.02
MAX_NOISE_PERCENT = 5.0  # if other programs take a larger share of the CPU, a round is repeated
STUCK_S = 120  # if no flow ends within this time, the missing flows count as lost
SETTLE_S = 0.2  # wait: the CPU time that a system uses after the last call counts, too


class Bounds(NamedTuple):
    """The bounds of a figure: the value that is accepted, and the stricter value that is desired.

    See `Figure`.
    """

    bound: float | None
    aim: float | None


NO_BOUNDS = Bounds(bound=None, aim=None)


class Figure(msgspec.Struct, frozen=True):
    """A measured figure: its value is the median of its rounds.

    ``bound`` is the highest value that is accepted, or the lowest one if ``more_is_better`` is
    set. ``aim`` is the desired value, which is stricter. If ``rate_name`` is set, the figure is
    shown in the table of figures by trigger rate, and otherwise in the table of all other figures.
    """

    workload: str
    system: str
    quantity: str
    unit: str
    rounds: Sequence[float]
    bound: float | None = None
    aim: float | None = None
    more_is_better: bool = False
    note: str = ""
    rate_name: str = ""

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    def is_within(self, bound: float | None) -> bool | None:
        """Whether the median is within a bound; None if there is no bound."""
        if bound is None:
            return None
        return self.median >= bound if self.more_is_better else self.median <= bound


@dataclass
class Round:
    """The measurements of one round."""

    count: int  # of flows
    duration_s: float
    cpu_s: float  # of all processes of the system
    sent_at: list[float]  # the time of each trigger, in seconds since 1970
    ended_at: list[float]  # the end of each flow, sorted, in seconds since 1970
    peak_mib: float = 0.0
    waits_s: list[float] = field(default_factory=list)  # from publish to outcome; empty: unknown
    written_bytes: int = 0
    noise_percent: float = 0.0

    @property
    def flows_per_s(self) -> float:
        """Flows per second, from the first trigger to the end of the last flow."""
        return self.count / self.duration_s

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU time for each flow."""
        return self.cpu_s / self.count * 1e6

    @property
    def written_kib(self) -> float:
        """KiB written to the disk for each flow; 0 if this is not measured."""
        return self.written_bytes / self.count / 1024

    def wait_ms(self, percentile: int) -> float:
        """A percentile of the times from publish to outcome, in milliseconds.

        Most systems do not record to which trigger an outcome belongs. For such a system, the n-th
        outcome is assigned to the n-th trigger, so the percentile is exact only if flows end in
        the order of their triggers.
        """
        waits_s = self.waits_s or [
            end_s - start_s for start_s, end_s in zip(self.sent_at, self.ended_at, strict=True)
        ]
        return 1000 * percentile_of(waits_s, percentile)

    def flows_per_s_between(self, start: float, end: float) -> float:
        """Flows per second in a part of the round. From 0 to 0.5 is the first half of the flows."""
        first, last = int(self.count * start), int(self.count * end) - 1
        return (last - first) / max(self.ended_at[last] - self.ended_at[first], 0.001)


def percentile_of(values: Sequence[float], percentile: int) -> float:
    """A percentile of the values. They need not be sorted."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percentile // 100)]


@contextmanager
def publisher(
    stage: Stage, count: int, rate: float = 0, topic: str = TOPIC
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Start a process that begins to publish triggers when the caller closes its standard input.

    Yields the process, and the file to which the process writes the time of each trigger.
    """
    times_file = stage.folder / "sent"
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.publish", str(stage.broker_port), topic, str(count),
         str(rate), str(times_file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        process.stdout.readline()
        yield process, times_file
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def measure_round(stage: Stage, system: System, count: int = 0, rate: float = 0) -> Round:
    """Publish triggers, and wait until all their flows have ended and are in the history.

    If ``count`` is 0, as many triggers are published as the system has in a round. If ``rate`` is
    0, they are published at full speed.
    """
    count = count or system.count
    written_before, noise = system.written_bytes(), Noise()
    ended_before, cpu_before_s = stage.ended_flows(), cpu_s(*system.pids)
    with publisher(stage, count, rate, system.topic) as (process, times_file):
        process.stdin.close()
        peak_mib = 0.0
        ended_count, last_progress = ended_before, time.monotonic()
        while ended_count < ended_before + count:
            time.sleep(POLL_S)
            last_count, ended_count = ended_count, stage.ended_flows()
            if ended_count > last_count:
                last_progress = time.monotonic()
            elif time.monotonic() - last_progress > STUCK_S:
                lost_count = ended_before + count - ended_count
                sys.exit(f"{system.name} lost {lost_count} of {count} flows")
            peak_mib = max(peak_mib, memory_mib(*system.pids))
            if process.poll():  # it has ended, and its exit code is not 0
                sys.exit("the publisher failed")
        if process.wait(60):
            sys.exit("the publisher failed")
        if system.wait_for_history is not None:
            system.wait_for_history(count)
        time.sleep(SETTLE_S)
        used_cpu_s = cpu_s(*system.pids) - cpu_before_s
        sent_at = array("d")
        sent_at.frombytes(times_file.read_bytes())
    ended_at = stage.end_times(ended_before, count)
    result = Round(
        count,
        ended_at[-1] - sent_at[0],
        used_cpu_s,
        list(sent_at),
        ended_at,
        peak_mib,
        written_bytes=system.written_bytes() - written_before,
        noise_percent=noise.percent(),
    )
    if system.outcomes is not None:
        settled_at = system.outcomes(count)
        # The payload of a trigger is its number (`publish.body`).
        result.waits_s = [settled_at[f"0x{n:012x}"] - start_s for n, start_s in enumerate(sent_at)]
    return result


def measure_quiet_round(stage: Stage, system: System, count: int = 0, rate: float = 0) -> Round:
    """Measure a round. If other programs disturb it, measure it again, up to ``max_tries`` times.

    Returns the round that was disturbed least.
    """
    tries = [measure_round(stage, system, count, rate)]
    while tries[-1].noise_percent > MAX_NOISE_PERCENT and len(tries) < stage.max_tries:
        print(
            f"   {system.name}: other programs took {tries[-1].noise_percent:.0f} % of the CPU"
            " time; the round is measured again",
            flush=True,
        )
        tries.append(measure_round(stage, system, count, rate))
    return min(tries, key=lambda each: each.noise_percent)


def fill_queue(stage: Stage, count: int) -> None:
    """Publish triggers for a node that is not running. The broker queues them."""
    with publisher(stage, count) as (process, _):
        process.stdin.close()
        wait_until(lambda: process.poll() is not None, within_s=300)
        if process.returncode:
            sys.exit("the publisher failed")
