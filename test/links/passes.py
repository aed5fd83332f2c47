"""A pass: the nodes hand over a number of runs each way, with faults."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from links.faults import Faults
from links.load import Load, Tally
from links.pair import LinkedSite, Pair

MAX_PASS_S = 600
SETTLED_WITHIN_S = 90


def make_pass(pair: Pair, tally: Tally, *, number: int, runs: int, cuts: int, kills: int,
              rng: random.Random) -> None:  # fmt: skip
    """Hand over ``runs`` runs each way, while the link is cut and each node is killed.

    In an even pass, the first node recognizes its peer by a token, and the second by a certificate;
    in an odd pass, the other way round. Afterwards all runs have ended, and the nodes are stopped.
    """
    pair.set_access(by_certificate=pair.sites[1 - number % 2])
    pair.start()
    wanted = [tally.handed_over(each) + runs for each in (0, 1)]
    load = Load(pair.sites, tally, f"pass-{number}")
    faults = Faults(pair, tally, runs=runs, cuts=cuts, kills=kills, rng=rng)
    end_s = time.monotonic() + MAX_PASS_S
    try:
        while not (
            faults.have_ended and all(tally.handed_over(each) >= wanted[each] for each in (0, 1))
        ):
            assert time.monotonic() < end_s, f"the pass did not end within {MAX_PASS_S} s"
            time.sleep(0.1)
    finally:
        faults.stop()
        load.stop()
    wait_until_all_runs_have_ended(pair.sites)
    pair.stop()


def wait_until_all_runs_have_ended(sites: Sequence[LinkedSite]) -> None:
    """Wait until the nodes have no open runs, at most SETTLED_WITHIN_S. `judge` counts the rest."""
    end_s = time.monotonic() + SETTLED_WITHIN_S
    while time.monotonic() < end_s:
        if not any(site.open_runs() for site in sites):
            return
        time.sleep(0.2)
