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
from fractal_rm.domain.errors import FractalError

MIN_EQUAL_CHARS = 8  # a caret marks the first difference only after this many equal characters
MAX_SHOWN_CHARS = 160  # of an expected or a received text, around the first difference


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
    unknown = unknown_name_error(names, cases)
    if unknown is not None:
        raise NoSuchCase(f"{unknown}; {folder / FILE} has {_case_count(len(cases))}")
    verdicts = [run_case(case, config) for case in select_cases(cases, names)]
    if as_json:
        print_json({"cases": [_as_json(verdict) for verdict in verdicts]})
    else:
        click.echo("\n".join([*map(_report, verdicts), _summary(verdicts)]))
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
    """Return lines with the expected text, the received text, and a caret where they differ."""
    at = f" (line {difference.line})" if difference.line else ""
    index = _common_length(difference.expected, difference.got)
    expected, caret = _excerpt(difference.expected, index)
    got, _ = _excerpt(difference.got, index)
    lines = [f"  {difference.what}{at}", f"    expected  {expected}", f"    got       {got}"]
    return [*lines, f"              {' ' * caret}^"] if index >= MIN_EQUAL_CHARS else lines


def _common_length(first: str, second: str) -> int:
    """Return how many characters at the beginning of two texts are equal."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))


def _excerpt(text: str, index: int) -> tuple[str, int]:
    """Return the text around an index, on one line, and the position of the index in that line."""
    start = max(0, index - MAX_SHOWN_CHARS // 2)
    end = start + MAX_SHOWN_CHARS
    before, after = _on_one_line(text[start:index]), _on_one_line(text[index:end])
    lead, tail = "…" if start else "", "…" if end < len(text) else ""
    return lead + before + after + tail, len(lead + before)


def _on_one_line(text: str) -> str:
    """Escape control characters: a text from another program must not control the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _summary(verdicts: list[Verdict]) -> str:
    passed = sum(verdict.passed for verdict in verdicts)
    failed = len(verdicts) - passed
    counts = f"{passed} passed" + (f", {failed} failed" if failed else "")
    return f"{_case_count(len(verdicts))}: {counts}"


def _case_count(number: int) -> str:
    return "1 case" if number == 1 else f"{number} cases"
