"""`flows test`: runs the cases in flows.cases.toml."""

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

MIN_COMMON = 8  # a caret marks the first difference after at least so many equal characters
SHOWN = 160  # characters of an expected or a received text, around the first difference


class NoSuchCase(FractalError):
    """No case has this text in its name."""

    code = "no-such-case"


@click.command("test")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@config_option
@json_option
def test_flows(names: tuple[str, ...], folder: Path, as_json: bool) -> int:
    """Run the cases in flows.cases.toml, without network and without waiting.

    With a NAME, run only the cases with NAME in their name. The flows run in the real engine, with
    the replies in the case. Exits 1 if a case fails, 3 if the file has errors.
    """
    config = read_config(folder)
    cases = load_cases(folder, config)
    unknown = unknown_name_error(names, cases)
    if unknown is not None:
        raise NoSuchCase(f"{unknown}; {folder / FILE} has {len(cases)}")
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
        lines += _shown(difference)
    return "\n".join(lines)


def _shown(difference: Difference) -> list[str]:
    """The difference: the expected text, the received text, and a caret where they differ."""
    at = f" (line {difference.line})" if difference.line else ""
    index = _common(difference.expected, difference.got)
    expected, caret = _around(difference.expected, index)
    got, _ = _around(difference.got, index)
    lines = [f"  {difference.what}{at}", f"    expected  {expected}", f"    got       {got}"]
    return [*lines, f"              {' ' * caret}^"] if index >= MIN_COMMON else lines


def _common(one: str, other: str) -> int:
    """The length of the common beginning of two texts."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _around(text: str, at: int) -> tuple[str, int]:
    """The text around an index, on one line, and the position of the index in that line."""
    start = max(0, at - SHOWN // 2)
    before, shown = _on_one_line(text[start:at]), _on_one_line(text[at : start + SHOWN])
    lead, tail = "…" if start else "", "…" if start + SHOWN < len(text) else ""
    return lead + before + shown + tail, len(lead + before)


def _on_one_line(text: str) -> str:
    """Escape control characters: texts from outside must not control the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _summary(verdicts: list[Verdict]) -> str:
    passed = sum(verdict.passed for verdict in verdicts)
    cases = "1 case" if len(verdicts) == 1 else f"{len(verdicts)} cases"
    failed = len(verdicts) - passed
    return f"{cases}: {passed} passed" + (f", {failed} failed" if failed else "")
