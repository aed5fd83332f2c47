"""Two nodes hand runs over to each other while their link is cut and they are killed.

`make links` does the same for longer.
"""

from __future__ import annotations

import random

import pytest

from links.load import Tally
from links.pair import joined_pair
from links.passes import make_pass
from links.verdict import judge
from machines import machine
from sites import FIRST, SECOND

RUNS, CUTS, KILLS = 300, 10, 4  # runs each way, kills of each node


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_cuts_of_the_link_and_kills_lose_no_run_and_execute_none_on_two_nodes(
    tmp_path, record_property
):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    machines = machine(f"{FIRST}/24"), machine(f"{SECOND}/24")
    with joined_pair(machines, tmp_path, offer_limit_s=2) as pair:
        tally = Tally(pair.sites)
        make_pass(pair, tally, number=0, runs=RUNS, cuts=CUTS, kills=KILLS, rng=random.Random(seed))
        verdict = judge(pair.sites, tally)
    assert verdict.problems == []
    assert min(verdict.handed_over) >= RUNS
    figures = (
        f"{CUTS} cuts, {KILLS} kills of each node, {verdict.handed_over} runs handed over,"
        f" {verdict.run_here} executed by their own node, {verdict.in_doubt} in doubt,"
        f" at most {verdict.longest_doubt_s:.1f} s, {verdict.repeated} calls repeated"
    )
    print(figures)
    record_property("figures", figures)
