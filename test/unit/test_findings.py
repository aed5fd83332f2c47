"""The text of a finding: its place, the line of the file, and the help."""

from __future__ import annotations

import pytest

from fractal_rm.domain.findings import MAX_SHOWN_CHARACTERS, Finding, Place


@pytest.mark.parametrize("code", ["C201", "C202", "C204"])
def test_a_finding_without_own_help_gets_the_help_of_its_code(code):
    assert "\n  help: " in Finding("comm.conf", Place(), code, "it is wrong").render()
    with_own_help = Finding("comm.conf", Place(), code, "it is wrong", "correct it").render()
    assert with_own_help.endswith("\n  help: correct it")


def render_lines(line: str, place: Place) -> tuple[str, str]:
    """Render a finding. Returns the line of the file, and the line with the carets under it."""
    _, text, caret = Finding("f", place, "F101", "", text_line=line).render().split("\n")
    return text, caret


@pytest.mark.parametrize("at", [0, 30, 119, 120, 50_000, 99_990, 99_999])
def test_the_part_of_a_very_long_line_around_the_caret_is_shown(at):
    text, caret = render_lines("." * at + "X" + "." * (99_999 - at), Place(1, at + 1))
    assert text.index("X") == caret.index("^")
    assert len(text) <= 4 + MAX_SHOWN_CHARACTERS + 2
    assert text.strip().startswith("…") is (at > MAX_SHOWN_CHARACTERS // 2)
    assert text.endswith("…") is (at < 100_000 - MAX_SHOWN_CHARACTERS // 2)


def test_a_short_line_is_shown_completely():
    line = "\tTO compnent1 1".ljust(MAX_SHOWN_CHARACTERS)
    assert render_lines(line, Place(1, 5, 9)) == (f"    {line}", "    \t   " + "^" * 9)


def test_the_caret_under_a_very_long_word_ends_with_the_shown_part():
    text, caret = render_lines("x" * 9_002, Place(1, 3, 9_000))
    assert caret.index("^") == 4 + 2
    assert len(caret) <= len(text)
