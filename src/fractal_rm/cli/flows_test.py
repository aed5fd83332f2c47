"""`flows test`: run the test cases in flows.cases.toml."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from fractal_rm.cases.judge import Difference
from fractal_rm.cases.read import FILE, unknown_name_error
from fractal_rm.cases.run import Verdict, load_cases, run_case, select_cases
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.options import config_option, json_option, print_json, read_config
from fractal_rm.cli.safe_text import echo
from fractal_rm.domain.errors import FractalError

MIN_EQUAL_CHARS = 8  # a caret is shown if at least so many characters before it are equal
MAX_SHOWN_CHARS = 160  # a longer text is cut; the part around the first difference is shown


class NoSuchCase(FractalError):
    """No case has a name that contains the given text."""

    code = "no-such-case"


@click.command("test")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@config_option
@json_option
def test_flows(names: tuple[str, ...], folder: Path, as_json: bool) -> int:
    """Run the cases in flows.cases.toml, without network and without waiting.

    With a NAME, run only the cases whose name contains NAME. The flows run in the real engine, and
    get the replies that the case contains. Exits 1 if a case fails, 3 if the file has errors.
    """
    config = read_config(folder)
    cases = load_cases(folder, config)
    error_text = unknown_name_error(names, cases)
    if error_text is not None:
        raise NoSuchCase(f"{error_text}; {folder / FILE} has {_case_count(len(cases))}")
    verdicts = [run_case(case, config) for case in select_cases(cases, names)]
    if as_json:
        print_json({"cases": [_as_json(verdict) for verdict in verdicts]})
    else:
        echo("\n".join([*map(_report, verdicts), _summary(verdicts)]))
    return 0 if all(verdict.passed for verdict in verdicts) else EXIT_PROBLEMS


def _as_json(verdict: Verdict) -> dict[str, object]:
    return {**msgspec.structs.asdict(verdict), "passed": verdict.passed}


def _report(verdict: Verdict) -> str:
    name = _on_one_line(verdict.name)
    if verdict.passed:
        return f"passed  {name}"
    lines = [f"FAILED  {name} ({FILE}:{verdict.line})"]
    for difference in verdict.differences:
        lines += _difference_lines(difference)
    return "\n".join(lines)


def _difference_lines(difference: Difference) -> list[str]:
    """Return three lines or four: subject, expected text, actual text, and maybe a caret.

    The caret is below the first character in which the texts differ.
    """
    place = f" (line {difference.line})" if difference.line else ""
    index = _common_length(difference.expected, difference.got)
    expected, caret = _excerpt(difference.expected, index)
    actual, _ = _excerpt(difference.got, index)
    lines = [f"  {difference.what}{place}", f"    expected  {expected}", f"    got       {actual}"]
    return [*lines, f"              {' ' * caret}^"] if index >= MIN_EQUAL_CHARS else lines


def _common_length(first: str, second: str) -> int:
    """Return how many characters at the beginning of two texts are equal."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def _excerpt(text: str, index: int) -> tuple[str, int]:
    """Return the part of ``text`` around ``index`` as one line, and the column of ``index``."""
    start = max(0, index - MAX_SHOWN_CHARS // 2)
    end = start + MAX_SHOWN_CHARS
    left = ("…" if start else "") + _on_one_line(text[start:index])
    right = _on_one_line(text[index:end]) + ("…" if end < len(text) else "")
    return left + right, len(left)


def _on_one_line(text: str) -> str:
    """Escape control characters, because a text from a component must not control the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _summary(verdicts: list[Verdict]) -> str:
    pass_count = sum(verdict.passed for verdict in verdicts)
    failure_count = len(verdicts) - pass_count
    counts = f"{pass_count} passed" + (f", {failure_count} failed" if failure_count else "")
    return f"{_case_count(len(verdicts))}: {counts}"


def _case_count(number: int) -> str:
    return "1 case" if number == 1 else f"{number} cases"
