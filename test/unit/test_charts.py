"""Charts are small SVG drawings without inline styles."""

from __future__ import annotations

import re

from fractal_rm.web.pages.numbers.charts import BAR, HEIGHT, LEAST, STEP, bars

_BAR = re.compile(rf"M(\d+) (\d+)h{BAR}v(\d+)h-{BAR}z")


def drawn(chart: str, tone: str) -> list[tuple[int, ...]]:
    """The bars of a series: left, top, height."""
    path = re.search(rf'class="fill-{tone}" d="([^"]*)"', chart)
    return [tuple(map(int, bar)) for bar in _BAR.findall(path[1])] if path else []


def test_the_highest_bar_has_the_full_height_and_a_small_number_is_still_visible():
    chart = bars("runs", ("accent", [0, 1_000, 500, 1, None]))
    assert drawn(chart, "accent") == [
        (STEP, 0, HEIGHT),
        (2 * STEP, HEIGHT // 2, HEIGHT // 2),
        (3 * STEP, HEIGHT - LEAST, LEAST),
    ]


def test_a_later_series_stands_on_an_earlier_one():
    chart = bars("runs", ("fail", [1]), ("accent", [1]))
    assert drawn(chart, "fail") == [(0, 14, 14)]
    assert drawn(chart, "accent") == [(0, 0, 14)]


def test_bars_never_leave_the_chart():
    chart = bars("runs", ("fail", [1]), ("accent", [1_000_000]))
    assert drawn(chart, "fail") == [(0, HEIGHT - LEAST, LEAST)]
    assert drawn(chart, "accent") == [(0, 0, HEIGHT - LEAST)]


def test_a_chart_without_numbers_is_a_line_and_one_without_steps_is_empty():
    assert "fill-ground" in bars("runs", ("accent", [0, 0]))
    assert "<path" not in bars("runs", ("accent", []))


def test_the_name_of_a_chart_is_text_and_no_markup():
    chart = bars("<script>\u202e", ("accent", [1]))
    assert "<title>&lt;script&gt;\\u202e</title>" in chart
    assert "style=" not in chart
