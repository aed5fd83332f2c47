"""The verdict: each acknowledged run was executed on exactly one node, and the journals agree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import programs
from fractal_rm.domain.facts import OfferInDoubt, Placed, Settled
from fractal_rm.domain.state import State
from links.load import Tally
from links.pair import LinkedSite


@dataclass
class Verdict:
    """``problems`` is empty if nothing was lost, run twice or left open.

    ``handed_over`` and ``run_here`` are numbers of runs, for each node. ``repeated`` is the number
    of calls that a node made again after a kill. Times are in seconds.
    """

    problems: list[str] = field(default_factory=list)
    handed_over: list[int] = field(default_factory=list)
    run_here: list[int] = field(default_factory=list)
    repeated: int = 0
    in_doubt: int = 0
    longest_doubt_s: float = 0.0


def judge(sites: Sequence[LinkedSite], tally: Tally) -> Verdict:
    """Compare acknowledgements, calls of components and journals. No node is running."""
    tally.update()
    verdict = Verdict()
    states = [
        {run.id: run.state for run in site.node.history.runs(limit=10_000_000)} for site in sites
    ]
    for number, site in enumerate(sites):
        _judge_runs(verdict, tally, states, number)
        _judge_journal(verdict, site)
        _measure_doubt(verdict, site)
    foreign = set().union(*tally.calls) - set().union(*tally.acknowledged)
    _add(verdict, "were executed and never acknowledged", foreign)
    called_on = Counter(run for calls in tally.calls for run in calls)
    _add(verdict, "were executed on several nodes", {run for run, n in called_on.items() if n > 1})
    verdict.repeated = sum(calls.total() - len(calls) for calls in tally.calls)
    return verdict


def _judge_runs(
    verdict: Verdict, tally: Tally, states: list[dict[str, State]], number: int
) -> None:
    """Judge the runs that one node has acknowledged."""
    own, runs = states[number], tally.acknowledged[number]
    others = [each for at, each in enumerate(states) if at != number]
    here, there = runs & tally.calls[number].keys(), runs & tally.called_elsewhere(number)
    name = f"of node {number + 1}"
    _add(verdict, f"{name} were lost: no component got a call", runs - here - there)
    _add(verdict, f"{name} are missing in its journal", runs - own.keys())
    handed_over = {run for run in runs if own.get(run) is State.HANDED_OFF}
    succeeded = {run for run in runs if own.get(run) is State.SUCCEEDED}
    _add(verdict, f"{name} did not end well", runs - handed_over - succeeded)
    _add(verdict, f"{name} were executed elsewhere than its journal says",
         (handed_over ^ there) | (succeeded ^ here))  # fmt: skip
    elsewhere = {run: [each[run] for each in others if run in each] for run in runs}
    _add(verdict, f"{name} did not succeed on exactly one other node",
         {run for run in handed_over if elsewhere[run] != [State.SUCCEEDED]})  # fmt: skip
    _add(verdict, f"{name} are in several journals", {run for run in succeeded if elsewhere[run]})
    verdict.handed_over.append(len(handed_over))
    verdict.run_here.append(len(succeeded))


def _judge_journal(verdict: Verdict, site: LinkedSite) -> None:
    audited = programs.run_text("audit", "--config", site.node.config)
    if audited.returncode != 0:
        verdict.problems.append(f"audit of {site.host}: {audited.stdout}{audited.stderr}")
    verdict.problems += [f"journal of {site.host}: {text}" for text in site.node.problems()]
    if "Traceback" in site.node.log:
        verdict.problems.append(f"the log of {site.host} has a traceback")


def _measure_doubt(verdict: Verdict, site: LinkedSite) -> None:
    """Count the runs that were in doubt, and find the longest time until their doubt ended."""
    for run in set(re.findall(r"offer_in_doubt run=([^ ]+)", site.node.log)):
        detail = site.node.history.run(run)
        facts = detail.facts if detail is not None else []
        begin_ms = next((each.at_ms for each in facts if isinstance(each.fact, OfferInDoubt)), None)
        if begin_ms is None:
            continue
        end_ms = next(
            each.at_ms for each in facts
            if each.at_ms >= begin_ms and isinstance(each.fact, (Placed, Settled))
        )  # fmt: skip
        verdict.in_doubt += 1
        verdict.longest_doubt_s = max(verdict.longest_doubt_s, (end_ms - begin_ms) / 1000)


def _add(verdict: Verdict, text: str, runs: set[str]) -> None:
    if runs:
        shown = ", ".join(sorted(runs)[:3])
        verdict.problems.append(f"{len(runs)} runs {text}, such as {shown}")
