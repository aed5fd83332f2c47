"""One round: publish triggers, wait for the flows, and measure CPU time and latencies."""

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

from bench.node import TOPIC
from bench.noise import Noise
from bench.stage import Stage, cpu_s, memory_mib, wait_until
from bench.systems import System

POLL_S = 0.02
NOISE_PERCENT = 5.0  # a round is repeated if other programs took a larger share of the CPU time
STUCK_S = 120  # if no flow has ended for this time, the missing flows are lost
SETTLE_S = 0.2  # work after the last call of a flow counts for its CPU time


@dataclass(frozen=True)
class Figure:
    """One line of the table: the median of its rounds, with the lowest and the highest.

    ``at_least`` is the bound and ``aim`` the tighter bound that is aimed at. Both are upper bounds,
    or lower bounds if ``more`` is set. Figures with a ``load`` are shown in a second table.
    """

    workload: str
    system: str
    what: str
    unit: str
    rounds: Sequence[float]
    at_least: float | None = None
    aim: float | None = None
    more: bool = False
    note: str = ""
    load: str = ""

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    def holds(self, bound: float | None) -> bool | None:
        """Whether the median is within a bound. None: there is no bound."""
        if bound is None:
            return None
        return self.median >= bound if self.more else self.median <= bound


@dataclass
class Round:
    """The measurements of one round. Times are in seconds; CPU time is that of all processes."""

    count: int
    took_s: float
    cpu_s: float
    sent: list[float]
    ended: list[float]
    peak_mib: float = 0.0
    waits: list[float] = field(default_factory=list)
    written_bytes: int = 0
    noise_percent: float = 0.0

    @property
    def flows_per_s(self) -> float:
        """Flows a second, from the first trigger to the last end."""
        return self.count / self.took_s

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU time for each flow."""
        return self.cpu_s / self.count * 1e6

    @property
    def written_kib(self) -> float:
        """KiB written to the disk for each flow; 0 if the system has no disk of its own."""
        return self.written_bytes / self.count / 1024

    def wait_ms(self, percentile: int) -> float:
        """A percentile of the times from publish to outcome, in milliseconds.

        If it is not known which trigger an outcome belongs to, the n-th outcome is counted for the
        n-th trigger: the mean is exact, and a percentile is exact if flows end in order.
        """
        waits = self.waits or [b - a for a, b in zip(self.sent, self.ended, strict=True)]
        return 1000 * percentile_of(waits, percentile)

    def pace(self, first: float, last: float) -> float:
        """Flows a second in a part of the round, from 0 to 1."""
        low, high = int(self.count * first), int(self.count * last) - 1
        return (high - low) / max(self.ended[high] - self.ended[low], 0.001)


def percentile_of(values: Sequence[float], percentile: int) -> float:
    """A percentile of values in any order."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percentile // 100)]


@contextmanager
def publisher(
    stage: Stage, count: int, rate: float = 0, topic: str = TOPIC
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Start a process that publishes triggers when its standard input is closed.

    Yields the process, and the file into which it writes when each trigger was sent.
    """
    times = stage.folder / "sent"
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.publish", str(stage.broker), topic, str(count), str(rate),
         str(times)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        process.stdout.readline()
        yield process, times
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def one_round(stage: Stage, system: System, count: int = 0, rate: float = 0) -> Round:
    """Publish triggers, and wait until all their flows have ended and are in the history."""
    count = count or system.count
    written, noise = system.written(), Noise()
    first, cpu_before = stage.ended_flows(), cpu_s(*system.pids)
    with publisher(stage, count, rate, system.topic) as (process, times):
        process.stdin.close()
        peak = 0.0
        ended, moved = first, time.monotonic()
        while ended < first + count:
            time.sleep(POLL_S)
            if ended != (ended := stage.ended_flows()):
                moved = time.monotonic()
            elif time.monotonic() - moved > STUCK_S:
                sys.exit(f"{system.name} lost {first + count - ended} of {count} flows")
            peak = max(peak, memory_mib(*system.pids))
            if process.poll() not in (None, 0):
                sys.exit("the publisher failed")
        if process.wait(60):
            sys.exit("the publisher failed")
        if system.wait_for_history is not None:
            system.wait_for_history(count)
        time.sleep(SETTLE_S)
        taken = cpu_s(*system.pids) - cpu_before
        sent = array("d")
        sent.frombytes(times.read_bytes())
    written = system.written() - written
    ended = stage.end_times(first, count)
    found = Round(count, ended[-1] - sent[0], taken, list(sent), ended, peak, [], written,
                  noise.percent())  # fmt: skip
    if system.outcomes is not None:
        outcome = system.outcomes(count)
        found.waits = [outcome[f"0x{n:012x}"] - at for n, at in enumerate(sent)]
    return found


def quiet_round(stage: Stage, system: System, count: int = 0, rate: float = 0) -> Round:
    """Repeat a round that other programs disturbed; returns the least disturbed one."""
    tries = [one_round(stage, system, count, rate)]
    while tries[-1].noise_percent > NOISE_PERCENT and len(tries) < stage.tries:
        taken = f"other programs took {tries[-1].noise_percent:.0f} % of the machine"
        print(f"   {system.name}: {taken}; measured again", flush=True)
        tries.append(one_round(stage, system, count, rate))
    return min(tries, key=lambda tried: tried.noise_percent)


def fill_queue(stage: Stage, count: int) -> None:
    """Publish triggers for a node that is not running: they wait at the broker."""
    with publisher(stage, count) as (process, _):
        process.stdin.close()
        wait_until(lambda: process.poll() is not None, 300)
        if process.returncode:
            sys.exit("the publisher failed")
