"""The faults: the link is cut, and the nodes are killed and started again, at random moments.

A moment is a number of acknowledged runs, so that the moments of a seed do not depend on the speed
of the machine.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable

from links.load import Tally
from links.pair import LinkedSite, Pair

SHORT_CUT_S = 0.05, 0.8
LONGER_THAN_LIMIT_S = 0.2, 1.0  # each tenth cut is so much longer than the time limit of an offer
LONG_CUT_EVERY = 10


class Faults:
    """All faults of a pass, each kind in its own thread. ``errors`` has what went wrong."""

    def __init__(self, pair: Pair, tally: Tally, *, runs: int, cuts: int, kills: int,
                 rng: random.Random) -> None:  # fmt: skip
        """``runs`` of each node; ``kills`` of each node."""
        self._pair, self._tally = pair, tally
        self._stop = threading.Event()
        self.errors: list[BaseException] = []
        begin = [len(each) for each in tally.acknowledged]
        lengths = [
            pair.offer_limit_s + rng.uniform(*LONGER_THAN_LIMIT_S)
            if number % LONG_CUT_EVERY == LONG_CUT_EVERY - 1
            else rng.uniform(*SHORT_CUT_S)
            for number in range(cuts)
        ]
        rng.shuffle(lengths)
        sides = [rng.randrange(2) for _ in range(cuts)]
        moments_of_cuts = [
            (sum(begin) + at, lambda side=side, length=length: self._cut(side, length))
            for at, side, length in zip(_moments(rng, 2 * runs, cuts), sides, lengths, strict=True)
        ]
        self._threads = [self._thread(self._acknowledged_by_both, moments_of_cuts)]
        for number, site in enumerate(pair.sites):
            moments = [
                (begin[number] + at, lambda site=site: _kill(site))
                for at in _moments(rng, runs, kills)
            ]
            self._threads.append(
                self._thread(lambda number=number: len(tally.acknowledged[number]), moments)
            )

    def _thread(
        self, progress: Callable[[], int], moments: Iterable[tuple[int, Callable[[], None]]]
    ) -> threading.Thread:
        thread = threading.Thread(target=self._make_faults, args=(progress, moments), daemon=True)
        thread.start()
        return thread

    def _acknowledged_by_both(self) -> int:
        return sum(len(each) for each in self._tally.acknowledged)

    def _make_faults(
        self, progress: Callable[[], int], moments: Iterable[tuple[int, Callable[[], None]]]
    ) -> None:
        try:
            for moment, make_fault in moments:
                while progress() < moment and not self._stop.is_set():
                    time.sleep(0.005)
                if self._stop.is_set():
                    return
                make_fault()
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self.errors.append(error)

    def _cut(self, side: int, length_s: float) -> None:
        machine = self._pair.sites[side].machine
        machine.ip("link", "set", "cable", "down")
        time.sleep(length_s)
        machine.ip("link", "set", "cable", "up")

    @property
    def have_ended(self) -> bool:
        """Whether all faults were made. Raises what went wrong."""
        for error in self.errors:
            raise error
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """End the threads, after the fault that each is making."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def _moments(rng: random.Random, runs: int, count: int) -> list[int]:
    return sorted(rng.randrange(runs) for _ in range(count))


def _kill(site: LinkedSite) -> None:
    site.node.kill()
    site.start_node()
