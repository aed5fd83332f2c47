"""The verdict: each acknowledged run was executed on exactly one node, and both journals agree."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

import programs
from fractal_rm.domain.facts import OfferInDoubt, Placed, Settled
from fractal_rm.domain.state import State
from links.load import Tally
from links.pair import LinkedSite, Pair


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


def judge(pair: Pair, tally: Tally) -> Verdict:
    """Compare the acknowledgements, the calls of components and the journals. No node is running."""
    tally.update()
    verdict = Verdict()
    states = [_states(site) for site in pair.sites]
    for number, site in enumerate(pair.sites):
        _judge_runs(verdict, tally, states, number)
        _judge_journal(verdict, site)
        _measure_doubt(verdict, site)
    known = tally.acknowledged[0] | tally.acknowledged[1]
    foreign = (tally.calls[0].keys() | tally.calls[1].keys()) - known
    _add(verdict, "were executed and never acknowledged", foreign)
    verdict.repeated = sum(calls.total() - len(calls) for calls in tally.calls)
    return verdict


def _states(site: LinkedSite) -> dict[str, State]:
    return {run.id: run.state for run in site.node.history.runs(limit=10_000_000)}


def _judge_runs(
    verdict: Verdict, tally: Tally, states: list[dict[str, State]], number: int
) -> None:
    """Judge the runs that one node has acknowledged."""
    own, other = states[number], states[1 - number]
    runs = tally.acknowledged[number]
    here, there = (runs & tally.calls[each].keys() for each in (number, 1 - number))
    name = f"of node {number + 1}"
    _add(verdict, f"{name} were lost: no component got a call", runs - here - there)
    _add(verdict, f"{name} were executed on both nodes", here & there)
    _add(verdict, f"{name} are missing in its journal", runs - own.keys())
    handed_over = {run for run in runs if own.get(run) is State.HANDED_OFF}
    succeeded = {run for run in runs if own.get(run) is State.SUCCEEDED}
    _add(verdict, f"{name} did not end well", runs - handed_over - succeeded)
    _add(verdict, f"{name} were executed elsewhere than its journal says",
         (handed_over ^ there) | (succeeded ^ here))  # fmt: skip
    wrong = {run for run in handed_over if other.get(run) is not State.SUCCEEDED}
    _add(verdict, f"{name} did not succeed on the other node", wrong)
    _add(verdict, f"{name} are in both journals", succeeded & other.keys())
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


def states_of(site: LinkedSite) -> Counter[State]:
    """The number of runs in each state."""
    return Counter(_states(site).values())
