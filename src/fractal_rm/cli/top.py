"""`top`: what the node does now, live in the terminal."""

from __future__ import annotations

import os
import select
import shutil
import sys
import termios
import tty
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import click

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.cli.options import config_option, json_option, print_json, state_of
from fractal_rm.cli.statuses import ask_processes
from fractal_rm.cli.top_lines import MINUTE_MS, SHOWN_MINUTES, Picture, top_lines
from fractal_rm.config.applied import NotKept, applied_numbers
from fractal_rm.config.load import load
from fractal_rm.domain.findings import ConfigRejected, Level
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.engine.ports import FailureGroup, Minute

DAY_MS = 86_400_000
HISTORY_EVERY_S = 5.0  # the journals are read less often than the processes are asked
WITHIN_S = 0.5  # for one question to the history
DUMB_COLUMNS = 120
_QUIT = (b"q", b"Q", b"\x03", b"\x04", b"")  # also Ctrl-C, Ctrl-D, and a closed terminal


@click.command()
@click.option("--once", is_flag=True, help="Print it once, and exit.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(0.5, 60),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often it is updated.",
)
@config_option
@json_option
def top(once: bool, every_s: float, folder: Path, as_json: bool) -> None:
    """Show live what the node does: rates, what waits, flows, components, failures, checks.

    "q" ends it. If the output is not a terminal, or a terminal that cannot move the cursor
    (TERM=dumb), it is printed once. Without a running node, the figures are from the journals.

    ACCEPTED and TROUBLE have a bar for each of the last 20 minutes. The flows with the most trouble
    come first: RUNS and TROUBLE count the last 20 minutes, also what an operator has handled. NOT
    HANDLED counts the runs of the last 24 hours that need an operator. A kind of failure has one
    line; `fractal-rm runs why RUN` tells its newest run.
    """
    watch = Watch(state_of(folder), folder)
    if as_json:
        print_json(watch.look())
    elif once or not _can_be_live():
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else DUMB_COLUMNS
        for line in top_lines(watch.look(), columns):
            click.echo(line)
    else:
        _live(watch, every_s)


class Watch:
    """Looks at a node again and again. Reads its journals and its configuration less often."""

    def __init__(self, state: Path, folder: Path) -> None:
        self._state = state
        self._folder = folder
        self._history = SqliteHistory(state)
        self._read_at_s: float | None = None
        self._minutes: list[Minute] = []
        self._failures: list[FailureGroup] = []
        self._problem = ""
        self._config_problem = ""

    def look(self) -> Picture:
        """What there is to see now."""
        now_s = SystemClock.monotonic_s()
        if self._read_at_s is None or now_s - self._read_at_s >= HISTORY_EVERY_S:
            self._read_at_s = now_s
            self._read()
            self._config_problem = config_problem(self._state, self._folder)
        return Picture(
            SystemClock.now_ms(), ask_processes(self._state, 1.0), self._minutes, self._failures,
            self._problem, self._config_problem,
        )  # fmt: skip

    def _read(self) -> None:
        now_ms = SystemClock.now_ms()
        since_ms = now_ms // MINUTE_MS * MINUTE_MS - (SHOWN_MINUTES - 1) * MINUTE_MS
        try:
            self._minutes = self._history.minutes(since_ms, now_ms + MINUTE_MS)
            day = RunFilter(since_ms=now_ms - DAY_MS, handled=False)
            failures = self._history.failures(day, within_s=WITHIN_S)
        except JournalError as error:
            self._problem = str(error)
        else:
            self._failures, self._problem = failures.groups, "; ".join(failures.unreadable)


def config_problem(state: Path, folder: Path) -> str:
    """Why the files of the configuration cannot be used, in a sentence; "": they can."""
    try:
        _ = load(folder, os.environ)
    except ConfigRejected as error:
        found = Counter(each.file for each in error.findings if each.level is Level.ERROR)
    else:
        return ""
    texts = [f"{file} has {count} error{'s' * (count > 1)}" for file, count in found.items()]
    try:
        number = max(applied_numbers(state), default=None)
    except NotKept:
        number = None
    used = "" if number is None else f"; the node uses configuration {number}"
    return f"{', '.join(texts)}{used}. `fractal-rm check` shows the errors"


def _can_be_live() -> bool:
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return is_terminal and os.environ.get("TERM", "dumb") not in ("", "dumb")


def _live(watch: Watch, every_s: float) -> None:
    from rich.console import Console  # noqa: PLC0415 - only for a terminal
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()

    def text() -> Text:
        columns, rows = console.size
        lines = top_lines(watch.look(), columns, rows - 1)
        return Text("\n".join(lines), no_wrap=True)

    with (
        _keys() as has_quit,
        Live(text(), console=console, screen=True, auto_refresh=False) as live,
    ):
        while not has_quit(every_s):
            live.update(text(), refresh=True)


@contextmanager
def _keys() -> Generator[Callable[[float], bool]]:
    """Read keys without Enter. Yields a function that waits, and returns whether to quit."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def has_quit(within_s: float) -> bool:
        ready, _, _ = select.select([descriptor], [], [], within_s)
        return bool(ready) and os.read(descriptor, 1) in _QUIT

    try:
        _ = tty.setcbreak(descriptor)
        yield has_quit
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
