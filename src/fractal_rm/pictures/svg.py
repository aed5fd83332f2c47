"""Draws a flow as SVG, black on white."""

from __future__ import annotations

from fractal_rm.domain.flow import Flow, Order
from fractal_rm.pictures.card import Entry, Heading, cards, heading
from fractal_rm.pictures.dataflow import dataflow
from fractal_rm.pictures.ink import cells, fitting, moved, page, path, shorten, text, wrap
from fractal_rm.pictures.listed import listed

MARGIN = 28.0
NARROWEST = 620.0
_LINE = 17.0
_MOST_ENTRIES = 16  # a flow may have many topics


def svg(flow: Flow) -> str:
    """Draw a flow. The same flow gives the same text."""
    drawn = (dataflow if flow.order is Order.DATAFLOW else listed)(flow.steps, cards(flow))
    width = max(NARROWEST, drawn.width)
    above = heading(flow)
    head, height = _head(above, width)
    steps = moved(drawn.elements, ((width - drawn.width) / 2, height))
    return page(
        [moved([*head, steps], (MARGIN, MARGIN))],
        width + 2 * MARGIN,
        height + drawn.height + 2 * MARGIN,
        f"{above.name} {above.title}".strip(),
    )


def _head(above: Heading, width: float) -> tuple[list[str], float]:
    """The heading of the picture, and its height."""
    room = fitting(width, 20)
    name = shorten(above.name, room // 2)
    elements = [text((0, 20), name, 20, bold=True, sans=True)]
    left = (cells(name) + 1.5) * 20 * 0.68  # bold letters of this font are wider
    y = 20.0
    if above.title:
        for line in wrap(above.title, fitting(width - left, 16), 2):
            elements.append(text((left, y), line, 16, sans=True))
            y += 22
        y -= 22
    y += 14
    elements.append(path([(0, y), (width, y)]))
    half = width / 2
    columns = [_column("BEGINS WITH", above.starts, 0, y, half - 16)]
    if above.settings:
        columns.append(_column("SETTINGS", above.settings, half, y, half))
    for drawn, _ in columns:
        elements += drawn
    return elements, max(end for _, end in columns) + 24


def _column(
    name: str, entries: tuple[Entry, ...], x: float, y: float, width: float
) -> tuple[list[str], float]:
    elements = [text((x, y + 20), name, 9, bold=True, sans=True, fill="#444")]
    y += 38
    shown = entries if len(entries) <= _MOST_ENTRIES else entries[: _MOST_ENTRIES - 1]
    left = x + 10 * 12 * 0.602
    for keyword, content in shown:
        elements.append(text((x, y), keyword, bold=True))
        for line in wrap(content, fitting(width - (left - x), 12), 2):
            elements.append(text((left, y), line))
            y += _LINE
    if len(shown) < len(entries):
        elements.append(text((x, y), f"… and {len(entries) - len(shown)} more"))
        y += _LINE
    return elements, y - _LINE
