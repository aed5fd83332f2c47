"""Reads everything that the story of a run needs, from the state folder and the configuration."""

from __future__ import annotations

import os
from pathlib import Path

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.sqlite.read.definitions import recorded_flow
from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.cli.options import moment
from fractal_rm.cli.statuses import ask_processes, has_process
from fractal_rm.config.control import read_control
from fractal_rm.config.load import load
from fractal_rm.config.model import Config
from fractal_rm.domain.findings import ConfigRejected
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.story import NodeNote, RunToTell
from fractal_rm.engine.ports import RunDetail, RunSummary
from fractal_rm.engine.story_of import note_of, run_to_tell, version_in


def told_run(history: SqliteHistory, detail: RunDetail, folder: Path) -> RunToTell:
    """A run for its story. ``folder`` is that of the configuration.

    What cannot be read is left out: the story is then told without it.
    """
    config, state, run = config_or_none(folder), history.folder, detail.summary
    version, flow = version_in(detail), None
    children: list[RunSummary] = []
    repeated_by: list[str] = []
    try:
        flow = None if version is None else recorded_flow(state, run.journal, version)
        children = history.children(run.id)
        repeated_by = [each.id for each in history.replays_of(run.id)]
    except JournalError:
        pass
    return run_to_tell(
        detail,
        now_ms=SystemClock.now_ms(),
        clock=moment,
        flow=flow,
        current=None if config is None else config.flows,
        here=_here(config, state, run),
        children=children,
        repeated_by=repeated_by,
    )


def config_or_none(folder: Path) -> Config | None:
    """The configuration, or None if it has errors."""
    try:
        return load(folder, os.environ).config
    except ConfigRejected:
        return None


def _here(config: Config | None, state: Path, run: RunSummary) -> NodeNote:
    """What is known about the node now. Its process is asked about an open run only."""
    is_running, status = has_process(state, run.journal), None
    if is_running and not run.state.final:
        status = ask_processes(state).statuses.get(run.journal)
    try:
        control = read_control(state)
    except OSError:
        return note_of(config, is_running=is_running, status=status)
    return note_of(
        config,
        is_running=is_running,
        status=status,
        paused=control.paused,
        draining=control.draining,
    )
