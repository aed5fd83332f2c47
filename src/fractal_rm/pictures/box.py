"""Draws a step as a box.

The outline shows the kind of the step:

    a call       a rectangle, the number of its result in a disc
    a sub-flow   a rectangle with double sides, as in flow charts (ISO 5807)
    a wait       round ends, and a clock
    a publish    a point to the right, as UML draws a sent signal
    a reply      round ends, and an arrow back

A step with a condition has a grey band at its top and a dashed outline; a step with FOREACH is a
stack; UNDO is under a dashed line.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from fractal_rm.pictures.card import Card, Kind
from fractal_rm.pictures.ink import (
    GREY,
    arrow,
    cells,
    circle,
    fitting,
    path,
    rectangle,
    shape,
    shorten,
    text,
    wrap,
)

WIDTH = 400.0
STACK = 8.0  # how far a stack extends to the right and above
_SIZE = 12.0
_LINE = 17.0
_HEAD = 34.0
_PAD = 14.0
_LEFT = 40.0  # the left edge of texts, right of the disc
_POINT = 16.0
_ROUND = 15.0
_KEYWORD = 10  # characters
_MOST_LINES = 4


class Box(msgspec.Struct, frozen=True):
    """The elements of a box with its upper left corner at 0, 0. Its width is WIDTH."""

    height: float
    elements: list[str]


def box(card: Card) -> Box:
    """Draw a step."""
    elements: list[str] = []
    y = 0.0
    bands = ("WHEN", card.when), ("FOREACH", card.foreach), ("WHEN", card.element_when)
    for keyword, content in bands:
        if content:
            y = _band(elements, y, keyword, content, card.kind)
    head = y
    elements += _head(card, y)
    y += _HEAD
    y = _paragraph(elements, y, card.sends)
    for keyword, content in card.options:
        y = _option(elements, y, keyword, content)
    y += 6 if y > head + _HEAD else 0
    if card.undo:
        y = _undo(elements, y, card.undo)
    return Box(y, [*_outline(card, y), *elements, *_edge(card, y)])


# --- lines of text --------------------------------------------------------------------------------


def _band(elements: list[str], y: float, keyword: str, content: str, kind: Kind) -> float:
    """A grey band with a keyword and its text. Returns the y of its end."""
    lines = wrap(content, fitting(_inner(kind) - _text_left(keyword) - 4, _SIZE), _MOST_LINES)
    height = len(lines) * _LINE + 8
    elements.append(shape(_band_shape(y, height, kind), f' fill="{GREY}" stroke="none"'))
    elements.append(path([(0, y + height), (_inner(kind), y + height)], ' stroke-width="0.8"'))
    elements += _diamond(y + 12.5) if keyword == "WHEN" else _sheets(y + 12.5)
    elements.append(text((_LEFT, y + 17), keyword, bold=True))
    elements += _lines(lines, _text_left(keyword), y)
    return y + height


def _band_shape(y: float, height: float, kind: Kind) -> str:
    right = _inner(kind)
    if kind not in (Kind.WAIT, Kind.REPLY) or y > 0:
        return f"M0 {y}H{right}V{y + height}H0Z"
    r = _ROUND
    return f"M0 {height}V{r}A{r} {r} 0 0 1 {r} 0H{right - r}A{r} {r} 0 0 1 {right} {r}V{height}Z"


def _head(card: Card, y: float) -> Iterator[str]:
    middle = y + _HEAD / 2
    yield from _icon(card, middle)
    room = fitting(_inner(card.kind) - _LEFT - _PAD, 14)
    name = ""
    if card.number is not None:
        name = f"= {shorten(card.name or f'result{card.number}', 18)}"
    yield text((_LEFT, middle + 5), card.keyword, 14, bold=True)
    taken = cells(card.keyword) + 1
    # The name has smaller letters than the rest of the head.
    target = shorten(card.target, room - taken - (cells(name) + 1 if name else 0))
    yield text((_LEFT + taken * 14 * 0.602, middle + 5), target, 14)
    if name:
        yield text((_inner(card.kind) - _PAD, middle + 5), name, right=True)


def _paragraph(elements: list[str], y: float, content: str) -> float:
    if not content:
        return y
    lines = wrap(content, fitting(WIDTH - _LEFT - _PAD - _POINT, _SIZE), _MOST_LINES)
    elements += _lines(lines, _LEFT, y - 8)
    return y + len(lines) * _LINE


def _option(elements: list[str], y: float, keyword: str, content: str) -> float:
    left = _text_left(keyword)
    lines = wrap(content, fitting(WIDTH - left - _PAD - _POINT, _SIZE), _MOST_LINES)
    elements.append(text((_LEFT, y + 9), keyword, 10, bold=True))
    elements += _lines(lines, left, y - 8)
    return y + len(lines) * _LINE


def _undo(elements: list[str], y: float, content: str) -> float:
    left = _text_left("UNDO")
    lines = wrap(content, fitting(WIDTH - left - _PAD, _SIZE), _MOST_LINES)
    height = len(lines) * _LINE + 8
    elements.append(path([(0, y), (WIDTH, y)], ' stroke-dasharray="3 3" stroke-width="0.9"'))
    elements += _back_arrow(y + 12.5)
    elements.append(text((_LEFT, y + 17), "UNDO", bold=True))
    elements += _lines(lines, left, y)
    return y + height


def _lines(lines: list[str], left: float, y: float) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield text((left, y + 17 + number * _LINE), line, _SIZE)


def _text_left(keyword: str) -> float:
    return _LEFT + (max(_KEYWORD, cells(keyword) + 1) - 1) * _SIZE * 0.602


# --- outlines -------------------------------------------------------------------------------------


def _inner(kind: Kind) -> float:
    """The width of a box without its point."""
    return WIDTH - (_POINT if kind is Kind.PUBLISH else 0)


def _outline(card: Card, height: float) -> Iterator[str]:
    """The white background of the texts, and the sheets of a stack behind it."""
    for sheet in (STACK, STACK / 2) if card.foreach else ():
        yield rectangle((sheet, -sheet), WIDTH, height, more=' fill="white"')
    yield _shape(card, height, ' fill="white" stroke="none"')


def _edge(card: Card, height: float) -> Iterator[str]:
    yield _shape(card, height, ' stroke-dasharray="7 4"' if card.when else "")
    if card.kind is Kind.RUN:
        for x in (5, WIDTH - 5):
            yield path([(x, 0), (x, height)], ' stroke-width="0.9"')


def _shape(card: Card, height: float, more: str) -> str:
    if card.kind is Kind.PUBLISH:
        points = [(0, 0), (_inner(card.kind), 0), (WIDTH, height / 2),
                  (_inner(card.kind), height), (0, height)]  # fmt: skip
        way = "M" + "L".join(f"{x:g} {y:g}" for x, y in points) + "Z"
        return shape(way, more)
    radius = _ROUND if card.kind in (Kind.WAIT, Kind.REPLY) else 0
    return rectangle((0, 0), WIDTH, height, radius, more)


# --- icons, around x = 22 -------------------------------------------------------------------------


def _icon(card: Card, y: float) -> Iterator[str]:
    if card.number is not None:
        yield circle((22, y), 11, ' fill="black"')
        content = str(card.number)
        size = {1: 12, 2: 12, 3: 10, 4: 8}.get(len(content), 6)
        left = 22 - len(content) * size * 0.602 / 2
        yield text((left, y + size * 0.36), content, size, bold=True, fill="white")
    elif card.kind is Kind.WAIT:
        yield circle((22, y), 9)
        yield path([(22, y - 6), (22, y), (26, y + 2.5)])
    elif card.kind is Kind.PUBLISH:
        yield circle((18, y), 2, ' fill="black"')
        for r in (6, 10):
            yield shape(f"M{18 + r * 0.7:g} {y - r * 0.7:g}A{r} {r} 0 0 1 "
                        f"{18 + r * 0.7:g} {y + r * 0.7:g}")  # fmt: skip
    else:
        yield arrow([(30, y + 5), (30, y - 3), (14, y - 3)])


def _diamond(y: float) -> Iterator[str]:
    yield shape(f"M22 {y - 7:g}L29 {y:g}L22 {y + 7:g}L15 {y:g}Z", ' fill="white"')


def _sheets(y: float) -> Iterator[str]:
    for by in (4, 0, -4):
        yield rectangle((16 + by, y - 4 - by), 9, 8, more=' fill="white"')


def _back_arrow(y: float) -> Iterator[str]:
    yield shape(f"M16 {y + 6:g}H24A5 5 0 0 0 24 {y - 4:g}H18")
    yield shape(f"M14 {y - 4:g}L20 {y - 8:g}V{y:g}Z", ' fill="black" stroke="none"')
