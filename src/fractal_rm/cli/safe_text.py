"""Text from outside on a terminal: what a terminal could act on is escaped (`domain.safe_text`)."""

from __future__ import annotations

import sys
import unicodedata

import click

from fractal_rm.domain.safe_text import ESCAPED, safe_text

MAX_LINE = 2_000  # characters of one line


def safe_line(value: object, most: int = MAX_LINE) -> str:
    r"""A value as text on one line. ``None`` is an empty text.

    Characters that a terminal could act on are escaped, such as ``\x1b`` and ``\u202e``. A text of
    more than ``most`` characters is cut, and its length is given.
    """
    text = "" if value is None else str(value)
    rest = ""
    if len(text) > most:
        text, rest = text[:most], f"… ({len(text):,} characters)"
    return safe_text(text) + rest


def safe_lines(text: str, most: int = MAX_LINE) -> str:
    """A text that may have several lines; each of them is made safe. Tabs become spaces."""
    return "\n".join(safe_line(line, most) for line in text.expandtabs().split("\n"))


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text, which may contain text from outside. Line feeds in it are kept."""
    click.echo(safe_lines(text), err=err, nl=nl)


def echo_data(text: str) -> None:
    """Print text in a format of its own, such as TOML or SVG. It is made safe on a terminal only.

    A program or a file gets it as it is.
    """
    click.echo(safe_lines(text) if sys.stdout.isatty() else text, nl=False)


def json_escaped(text: str) -> str:
    """JSON text in which characters that a terminal could act on are escaped. It means the same."""
    if text.isascii() and "\x7f" not in text:  # JSON escapes the other control characters
        return text
    return "".join(map(_json_safe, text))


def _json_safe(character: str) -> str:
    if character >= " " and unicodedata.category(character) in ESCAPED:
        units = character.encode("utf-16-be", "surrogatepass").hex()
        return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
    return character


def width_of(text: str) -> int:
    """The number of columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_width(character) for character in text)


def fit(text: str, columns: int) -> str:
    """A text that takes at most so many columns."""
    if text.isascii():
        return text[:columns]
    taken = 0
    for index, character in enumerate(text):
        taken += _width(character)
        if taken > columns:
            return text[:index]
    return text


def pad(text: str, columns: int) -> str:
    """A text, followed by spaces up to so many columns."""
    return text + " " * (columns - width_of(text))


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
