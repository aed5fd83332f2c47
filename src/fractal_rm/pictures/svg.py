"""Draws a flow as SVG, black on white."""

from __future__ import annotations

from fractal_rm.domain.flow import Flow, Order
from fractal_rm.pictures.card import Entry, Heading, cards, heading
from fractal_rm.pictures.dataflow_order import draw_dataflow
from fractal_rm.pictures.listed_order import draw_listed
from fractal_rm.pictures.svg_elements import (
    CHARACTER_WIDTH,
    characters_that_fit,
    page,
    path,
    shorten,
    text,
    text_width,
    translate,
    wrap,
)

MARGIN = 28.0
MIN_WIDTH = 620.0
_LINE_HEIGHT = 17.0
_TEXT_SIZE = 12.0
_KEYWORD_CHARACTERS = 10  # the width of the column of keywords
_MAX_ENTRIES = 16  # further entries are only counted; a flow may have many topics


def svg(flow: Flow) -> str:
    """Draw a flow as SVG. The same flow always gives the same text."""
    draw = draw_dataflow if flow.order is Order.DATAFLOW else draw_listed
    drawn = draw(flow.steps, cards(flow))
    width = max(MIN_WIDTH, drawn.width)
    header = heading(flow)
    head, height = _head(header, width)
    steps = translate(drawn.elements, ((width - drawn.width) / 2, height))
    return page(
        [translate([*head, steps], (MARGIN, MARGIN))],
        width + 2 * MARGIN,
        height + drawn.height + 2 * MARGIN,
        f"{header.name} {header.title}".strip(),
    )


def _head(header: Heading, width: float) -> tuple[list[str], float]:
    """The elements of the heading, and its height."""
    room = characters_that_fit(width, 20)
    name = shorten(header.name, room // 2)
    elements = [text((0, 20), name, 20, bold=True, sans=True)]
    left = (text_width(name) + 1.5) * 20 * 0.68  # bold letters of this font are wider
    y = 20.0
    if header.title:
        for line in wrap(header.title, characters_that_fit(width - left, 16), max_lines=2):
            elements.append(text((left, y), line, 16, sans=True))
            y += 22
        y -= 22
    y += 14
    elements.append(path([(0, y), (width, y)]))
    half = width / 2
    columns = [_column("BEGINS WITH", header.starts, 0, y, half - 16)]
    if header.settings:
        columns.append(_column("SETTINGS", header.settings, half, y, half))
    for column_elements, _ in columns:
        elements += column_elements
    return elements, max(end for _, end in columns) + 24


def _column(
    name: str, entries: tuple[Entry, ...], x: float, y: float, width: float
) -> tuple[list[str], float]:
    elements = [text((x, y + 20), name, 9, bold=True, sans=True, fill="#444")]
    y += 38
    visible_entries = entries if len(entries) <= _MAX_ENTRIES else entries[: _MAX_ENTRIES - 1]
    left = x + _KEYWORD_CHARACTERS * _TEXT_SIZE * CHARACTER_WIDTH
    for keyword, content in visible_entries:
        elements.append(text((x, y), keyword, bold=True))
        room = characters_that_fit(width - (left - x), _TEXT_SIZE)
        for line in wrap(content, room, max_lines=2):
            elements.append(text((left, y), line))
            y += _LINE_HEIGHT
    if len(visible_entries) < len(entries):
        elements.append(text((x, y), f"… and {len(entries) - len(visible_entries)} more"))
        y += _LINE_HEIGHT
    return elements, y - _LINE_HEIGHT
