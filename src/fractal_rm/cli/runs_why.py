"""`runs why`: the story of a run in plain sentences."""

from __future__ import annotations

from pathlib import Path

import click

from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.cli.completion import complete_run
from fractal_rm.cli.find_run import find_run
from fractal_rm.cli.options import config_option, json_option, moment, print_json, state_of
from fractal_rm.cli.safe_text import echo
from fractal_rm.cli.told import told_run
from fractal_rm.cli.words import paragraph, print_advice
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.domain.story import Story, tell
from fractal_rm.engine.ports import RunDetail, RunSummary

WITHIN_S = 5.0  # for one part of the search
_IN_TROUBLE = RunFilter(states=tuple(sorted(TROUBLE_STATES)), handled=False)
_PARKED = RunFilter(states=(State.PARKED,), handled=False)


@click.command("why")
@click.argument("run_id", metavar="[RUN]", required=False, shell_complete=complete_run)
@config_option
@json_option
def why_run(run_id: str | None, folder: Path, as_json: bool) -> None:
    """Tell the story of a run: what happened when, why, and what can be done now.

    The first characters of the id are enough. Without RUN, the newest run in trouble is told: one
    that failed, expired, was set aside or parked, or of which it is not known how it ended, and
    that no operator has handled.

    The node need not run.
    """
    history = SqliteHistory(state_of(folder))
    detail = find_run(history, run_id) if run_id else newest_in_trouble(history)
    if detail is None:
        if as_json:
            print_json(None)
        else:
            echo("No run needs attention.")
        return
    story = tell(told_run(history, detail, folder))
    if as_json:
        print_json(story)
    else:
        print_story(story, detail)


def newest_in_trouble(history: SqliteHistory) -> RunDetail | None:
    """The newest run that needs an operator, or None."""
    found = [_newest(history, each) for each in (_IN_TROUBLE, _PARKED)]
    newest = max((run.id for run in found if run is not None), default=None)
    return None if newest is None else history.run(newest)


def _newest(history: SqliteHistory, run_filter: RunFilter) -> RunSummary | None:
    """The newest run that fulfils conditions; None: the whole history has none."""
    found = history.find(run_filter, limit=1, within_s=WITHIN_S)
    while not found.runs and found.next is not None:
        found = history.find(run_filter, cursor=found.next, limit=1, within_s=WITHIN_S)
    return found.runs[0] if found.runs else None


def print_story(story: Story, detail: RunDetail) -> None:
    """Print a story for people."""
    run = detail.summary
    flow = f"flow {run.flow}" if run.flow is not None else "dead letter"
    echo(f"run {story.run}  {story.state.value}  {flow}  {moment(run.accepted_ms)}")
    echo()
    echo(paragraph("why: ", story.why))
    echo()
    day = moment(run.accepted_ms)[:10]
    for index, event in enumerate(story.events):
        at = moment(event.at_ms)
        at = at[11:] if at[:10] == day else at
        sign = "✗" if event.is_problem else " "
        echo(paragraph(f"{at} {sign} ", event.text))
        if story.left_out and index == len(story.events) // 2 - 1:
            echo(f"  … {story.left_out:,} more: `fractal-rm runs show {story.run}` has all facts")
    if not story.events:
        echo("The facts of this run were deleted because of their age: see history.max_age_s.")
    print_advice(story)
