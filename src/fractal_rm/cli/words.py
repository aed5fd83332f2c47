"""Paragraphs on a terminal."""

from __future__ import annotations

import shlex
import shutil
import textwrap
from pathlib import Path

import click
from click.core import ParameterSource

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.cli.options import moment
from fractal_rm.cli.safe_text import echo, safe_line
from fractal_rm.domain.story import Story

WIDTH = 100  # columns of a paragraph, at most
MIN_WIDTH = 40


def print_advice(story: Story, *, besides: tuple[str, ...] = ()) -> None:
    """Print what can be done now, if anything can be done, but not the command ``besides``.

    The commands have the option --config if this command has it.
    """
    advice = [each for each in story.advice if not each.words or each.words != besides]
    if advice:
        echo()
        echo("what you can do now:")
    for each in advice:
        echo(paragraph("- ", each.text))
        if each.words:
            echo(f"    {each.command}{_config_words()}")


def _config_words() -> str:
    """The option --config, as it was given to this command, for a command in another folder."""
    context = click.get_current_context(silent=True)
    if context is None or context.get_parameter_source("folder") is not ParameterSource.COMMANDLINE:
        return ""
    return f" --config {shlex.quote(str(Path(context.params['folder']).resolve()))}"


def short_moment(at_ms: int) -> str:
    """The time of day, or the date if it is another day."""
    text, today = moment(at_ms), moment(SystemClock.now_ms())[:10]
    return text[11:19] if text[:10] == today else text[:10]


def paragraph(begin: str, text: str) -> str:
    """A paragraph whose lines are indented like the text after ``begin``, in safe characters."""
    columns = shutil.get_terminal_size((WIDTH, 24)).columns
    return textwrap.fill(
        safe_line(text),
        max(MIN_WIDTH, min(WIDTH, columns)),
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_on_hyphens=False,
    )
