"""The verdict: each acknowledged run was executed on exactly one node, and the journals agree."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import programs
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import RunSummary
from links.load import Tally
from links.pair import LinkedSite

MAX_RUNS = 10_000_000
# Each copy of a run in a journal, by the id of the run: the number of the node, and the state.
Ends = dict[str, list[tuple[int, State]]]


@dataclass
class Verdict:
    """``problems`` is empty if nothing was lost, run twice or left open.

    ``handed_over`` and ``run_here`` are numbers of runs, for each node. ``repeated`` is the number
    of calls that a node made again after a kill. ``in_doubt`` is the number of runs of which it was
    not known for a time which node has them. The longest of them took ``longest_doubt_s`` seconds.
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
    ends: Ends = defaultdict(list)
    for number, site in enumerate(sites):
        runs = site.node.history.runs(limit=MAX_RUNS)
        for run in runs:
            ends[_original_id(run.id)].append((number, run.state))
        _measure_doubt(verdict, site, runs)
        _judge_journal(verdict, site)
    for number in range(len(sites)):
        _judge_runs(verdict, tally, ends, number)
    known = set().union(*tally.acknowledged)
    _add(verdict, "have no trigger", (ends.keys() | set().union(*tally.calls)) - known)
    verdict.repeated = sum(calls.total() - len(calls) for calls in tally.calls)
    return verdict


def _original_id(run: str) -> str:
    """The id of a run before it was returned to its sender."""
    return run.partition("~")[0]


def _judge_runs(verdict: Verdict, tally: Tally, ends: Ends, number: int) -> None:
    """Judge the runs that one node has acknowledged."""
    lost, repeated, wrong_node, not_ended = set(), set(), set(), set()
    handed_over = run_here = 0
    for run in tally.acknowledged[number]:
        called = [at for at, calls in enumerate(tally.calls) if run in calls]
        succeeded = [at for at, state in ends[run] if state is State.SUCCEEDED]
        if not called:
            lost.add(run)
        elif len(called) > 1 or len(succeeded) > 1:
            repeated.add(run)
        elif called != succeeded:
            wrong_node.add(run)
        if any(state not in (State.SUCCEEDED, State.HANDED_OFF) for _, state in ends[run]):
            not_ended.add(run)
        handed_over += succeeded != [number]
        run_here += succeeded == [number]
    name = f"of node {number + 1}"
    _add(verdict, f"{name} were lost: no component got a call", lost)
    _add(verdict, f"{name} were executed on several nodes", repeated)
    _add(verdict, f"{name} were not executed where a journal says it", wrong_node)
    _add(verdict, f"{name} did not end well", not_ended)
    verdict.handed_over.append(handed_over)
    verdict.run_here.append(run_here)


def _judge_journal(verdict: Verdict, site: LinkedSite) -> None:
    audited = programs.run_text("audit", "--config", site.node.config)
    if audited.returncode != 0:
        verdict.problems.append(f"audit of {site.host}: {audited.stdout}{audited.stderr}")
    verdict.problems += [f"journal of {site.host}: {text}" for text in site.node.problems()]
    if "Traceback" in site.node.log:
        verdict.problems.append(f"the log of {site.host} has a traceback")


def _measure_doubt(verdict: Verdict, site: LinkedSite, runs: list[RunSummary]) -> None:
    """Count the runs that were in doubt, and find the longest time until one of them ended."""
    in_doubt = set(re.findall(r"offer_in_doubt run=([^ ]+)", site.node.log))
    verdict.in_doubt += len(in_doubt)
    for run in runs:
        if run.id in in_doubt and run.settled_ms is not None:
            duration_s = (run.settled_ms - run.accepted_ms) / 1000
            verdict.longest_doubt_s = max(verdict.longest_doubt_s, duration_s)


def _add(verdict: Verdict, text: str, runs: set[str]) -> None:
    if runs:
        shown = ", ".join(sorted(runs)[:3])
        verdict.problems.append(f"{len(runs)} runs {text}, such as {shown}")
