"""`runs why`: the story of a run in plain sentences."""

from __future__ import annotations

import os
import shutil
import textwrap
from pathlib import Path

import click

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.lock import is_locked
from fractal_rm.adapters.sqlite.read.definitions import recorded_flow
from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.cli.find_run import find_run
from fractal_rm.cli.options import config_option, json_option, moment, print_json, state_of
from fractal_rm.cli.safe_text import echo, safe_line
from fractal_rm.config.control import read_control
from fractal_rm.config.load import load
from fractal_rm.config.model import Config
from fractal_rm.domain.findings import ConfigRejected
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.domain.story import NodeNote, Story
from fractal_rm.engine.ports import RunDetail
from fractal_rm.engine.story_of import note_of, story_of, version_in

WIDTH = 100  # columns of the text, at most
MIN_WIDTH = 40


@click.command("why")
@click.argument("run_id", metavar="[RUN]", required=False)
@config_option
@json_option
def why_run(run_id: str | None, folder: Path, as_json: bool) -> None:
    """Tell the story of a run: what happened when, why, and what can be done now.

    The first characters of the id are enough. Without RUN, the newest run in trouble is told: one
    that failed, expired, was set aside or parked, or of which it is not known how it ended, and
    that no operator has handled.

    The node need not run.
    """
    state = state_of(folder)
    history = SqliteHistory(state)
    detail = find_run(history, run_id) if run_id else newest_in_trouble(history)
    if detail is None:
        if as_json:
            print_json(None)
        else:
            echo("No run is in trouble.")
        return
    story = read_story(detail, folder, state)
    if as_json:
        print_json(story)
    else:
        print_story(story, detail)


def newest_in_trouble(history: SqliteHistory) -> RunDetail | None:
    """The newest run that needs an operator, or None."""
    states = (*TROUBLE_STATES, State.PARKED)
    runs = [run for state in states for run in history.runs(state=state, limit=1)]
    newest = max(runs, key=lambda run: run.id, default=None)
    return None if newest is None else history.run(newest.id)


def read_story(detail: RunDetail, folder: Path, state: Path) -> Story:
    """The story of a run, with what the configuration and the control file say now."""
    config = _config(folder)
    version = version_in(detail)
    flow = None
    if version is not None:
        try:
            flow = recorded_flow(state, detail.summary.journal, version)
        except JournalError:
            flow = None  # the story is told without the names of the steps
    return story_of(
        detail,
        now_ms=SystemClock.now_ms(),
        clock=moment,
        flow=flow,
        current=None if config is None else config.flows,
        here=_here(config, state, detail.summary.journal),
    )


def _config(folder: Path) -> Config | None:
    try:
        return load(folder, os.environ).config
    except ConfigRejected:  # the story is told without addresses
        return None


def _here(config: Config | None, state: Path, journal: str) -> NodeNote:
    try:
        is_running = is_locked(state / f"{journal}.lock")
    except FileNotFoundError:
        is_running = False
    except OSError:
        is_running = None
    try:
        control = read_control(state)
    except OSError:
        return note_of(config, is_running=is_running)
    return note_of(config, is_running=is_running, paused=control.paused, draining=control.draining)


def print_story(story: Story, detail: RunDetail) -> None:
    """Print a story for people."""
    run = detail.summary
    width = max(MIN_WIDTH, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))
    flow = f"flow {run.flow}" if run.flow is not None else "dead letter"
    took = ""
    echo(f"run {story.run}  {story.state.value}  {flow}  {moment(run.accepted_ms)}{took}")
    echo()
    echo(_wrapped("why: ", story.why, width))
    echo()
    day = moment(run.accepted_ms)[:10]
    for index, event in enumerate(story.events):
        at = moment(event.at_ms)
        at = at[11:] if at[:10] == day else at
        sign = "✗" if event.is_problem else " "
        echo(_wrapped(f"{at} {sign} ", event.text, width))
        if story.left_out and index == len(story.events) // 2 - 1:
            echo(f"  … {story.left_out:,} more: `fractal-rm runs show {story.run}` has all facts")
    if not story.events:
        echo("The facts of this run were deleted because of their age: see history.max_age_s.")
    if story.advice:
        echo()
        echo("what you can do now:")
        for each in story.advice:
            echo(_wrapped("- ", each.text, width))
            if each.words:
                echo(f"    {each.command}")


def _wrapped(begin: str, text: str, width: int) -> str:
    """A paragraph whose lines are indented like the text after ``begin``."""
    return textwrap.fill(
        safe_line(text), width, initial_indent=begin, subsequent_indent=" " * len(begin),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
