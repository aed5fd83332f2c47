"""Draws a step as a box.

The outline and the icon show the kind of the step:

    a call       a rectangle, the number of its result in a disc
    a sub-flow   a rectangle with double sides, as in flow charts (ISO 5807)
    a wait       round ends, and a clock
    a publish    a rectangle with a point on the right, as a sent signal in UML
    a reply      round ends, and an arrow to the left

A step with a condition has a grey band at its top and a dashed outline. A step with FOREACH is
drawn as a stack of sheets. The UNDO of a step is at the bottom of the box, below a dashed line.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from fractal_rm.pictures.card import Card, Kind
from fractal_rm.pictures.svg_elements import (
    CHARACTER_WIDTH,
    GREY,
    WIDEST_CHARACTER,
    arrow,
    characters_that_fit,
    circle,
    linked,
    path,
    rectangle,
    shape,
    shorten,
    text,
    text_width,
    toned_text,
    wrap,
)

BOX_WIDTH = 400.0
STACK_OFFSET = 8.0  # how far the sheets of a stack extend to the right and upwards
_TEXT_SIZE = 12.0
_LINE_HEIGHT = 17.0
_HEAD_HEIGHT = 34.0
_PADDING = 14.0
_TEXT_MARGIN = 6.0  # below the last line of text
_TEXT_LEFT = 40.0  # the x at which texts begin
_POINT_WIDTH = 16.0
_CORNER_RADIUS = 15.0
_KEYWORD_WIDTH = 10  # characters
_MAX_LINES = 4


class Box(msgspec.Struct, frozen=True):
    """A drawn step, as SVG elements. Its upper left corner is at 0, 0; its width is BOX_WIDTH."""

    height: float
    elements: list[str]


def draw_box(card: Card) -> Box:
    """Draw a step as a box."""
    elements: list[str] = []
    y = 0.0
    bands = (("WHEN", card.when), ("FOREACH", card.foreach), ("WHEN", card.element_when))
    for keyword, content in bands:
        if content:
            y = _band(elements, y, keyword, content, card.kind)
    elements += _head(card, y)
    y += _HEAD_HEIGHT
    below_head = y
    y = _paragraph(elements, y, card.sends)
    for keyword, content in card.options:
        y = _option(elements, y, keyword, content)
    if y > below_head:  # there is text below the head
        y += _TEXT_MARGIN
    if card.undo:
        y = _undo(elements, y, card.undo)
    if card.marks:
        y = _marks(elements, y, card)
    return Box(y, [*_background(card, y), *elements, *_outline(card, y)])


# --- lines of text --------------------------------------------------------------------------------


def _band(elements: list[str], y: float, keyword: str, content: str, kind: Kind) -> float:
    """Add a grey band with a keyword and its text. Returns the y of the band's lower end."""
    lines = wrap(
        content,
        characters_that_fit(_inner_width(kind) - _content_left(keyword) - 4, _TEXT_SIZE),
        _MAX_LINES,
    )
    height = len(lines) * _LINE_HEIGHT + 8
    elements.append(shape(_band_shape(y, height, kind), f' fill="{GREY}" stroke="none"'))
    elements.append(
        path([(0, y + height), (_inner_width(kind), y + height)], ' stroke-width="0.8"')
    )
    draw_icon = _diamond if keyword == "WHEN" else _sheets
    elements += draw_icon(y + 12.5)
    elements.append(text((_TEXT_LEFT, y + 17), keyword, bold=True))
    elements += _lines(lines, _content_left(keyword), y)
    return y + height


def _band_shape(y: float, height: float, kind: Kind) -> str:
    right = _inner_width(kind)
    if kind not in (Kind.WAIT, Kind.REPLY) or y > 0:
        return f"M0 {y}H{right}V{y + height}H0Z"
    r = _CORNER_RADIUS
    return f"M0 {height}V{r}A{r} {r} 0 0 1 {r} 0H{right - r}A{r} {r} 0 0 1 {right} {r}V{height}Z"


def _head(card: Card, y: float) -> Iterator[str]:
    middle = y + _HEAD_HEIGHT / 2
    yield from _icon(card, middle)
    room = characters_that_fit(_inner_width(card.kind) - _TEXT_LEFT - _PADDING, 14)
    name = ""
    if card.number is not None:
        name = f"= {shorten(card.name or f'result{card.number}', 18)}"
    yield text((_TEXT_LEFT, middle + 5), card.keyword, 14, bold=True)
    keyword_width = text_width(card.keyword) + 1
    # The name needs a little less room than is kept free: its letters are smaller.
    name_width = text_width(name) + 1 if name else 0
    target = shorten(card.target, room - keyword_width - name_width)
    target_left = _TEXT_LEFT + keyword_width * 14 * CHARACTER_WIDTH
    target_text = text((target_left, middle + 5), target, 14)
    yield linked(card.link, target_text) if card.link else target_text
    if name:
        yield text((_inner_width(card.kind) - _PADDING, middle + 5), name, right=True)


def _paragraph(elements: list[str], y: float, content: str) -> float:
    if not content:
        return y
    lines = wrap(
        content,
        characters_that_fit(BOX_WIDTH - _TEXT_LEFT - _PADDING - _POINT_WIDTH, _TEXT_SIZE),
        _MAX_LINES,
    )
    elements += _lines(lines, _TEXT_LEFT, y - 8)
    return y + len(lines) * _LINE_HEIGHT


def _option(elements: list[str], y: float, keyword: str, content: str) -> float:
    left = _content_left(keyword)
    lines = wrap(
        content,
        characters_that_fit(BOX_WIDTH - left - _PADDING - _POINT_WIDTH, _TEXT_SIZE),
        _MAX_LINES,
    )
    elements.append(text((_TEXT_LEFT, y + 9), keyword, 10, bold=True))
    elements += _lines(lines, left, y - 8)
    return y + len(lines) * _LINE_HEIGHT


def _undo(elements: list[str], y: float, content: str) -> float:
    left = _content_left("UNDO")
    lines = wrap(content, characters_that_fit(BOX_WIDTH - left - _PADDING, _TEXT_SIZE), _MAX_LINES)
    height = len(lines) * _LINE_HEIGHT + 8
    elements.append(path([(0, y), (BOX_WIDTH, y)], ' stroke-dasharray="3 3" stroke-width="0.9"'))
    elements += _back_arrow(y + 12.5)
    elements.append(text((_TEXT_LEFT, y + 17), "UNDO", bold=True))
    elements += _lines(lines, left, y)
    return y + height


def _marks(elements: list[str], y: float, card: Card) -> float:
    """Add a line with the marks. Returns the y of its lower end."""
    elements.append(path([(0, y), (_inner_width(card.kind), y)], ' stroke-width="0.9"'))
    left = _TEXT_LEFT
    for mark in card.marks:
        elements.append(toned_text((left, y + 17), mark.text, mark.tone))
        left += (text_width(mark.text) + 3) * _TEXT_SIZE * WIDEST_CHARACTER
    return y + _LINE_HEIGHT + 8


def _lines(lines: list[str], left: float, y: float) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield text((left, y + 17 + number * _LINE_HEIGHT), line, _TEXT_SIZE)


def _content_left(keyword: str) -> float:
    characters = max(_KEYWORD_WIDTH, text_width(keyword) + 1) - 1
    return _TEXT_LEFT + characters * _TEXT_SIZE * CHARACTER_WIDTH


# --- outlines -------------------------------------------------------------------------------------


def _inner_width(kind: Kind) -> float:
    """The width of a box, without the point on the right of a publish."""
    return BOX_WIDTH - _POINT_WIDTH if kind is Kind.PUBLISH else BOX_WIDTH


def _background(card: Card, height: float) -> Iterator[str]:
    """The white background of the box, and the other sheets of a stack."""
    if card.foreach:
        for offset in (STACK_OFFSET, STACK_OFFSET / 2):
            yield rectangle((offset, -offset), BOX_WIDTH, height, attributes=' fill="white"')
    yield _shape(card, height, ' fill="white" stroke="none"')


def _outline(card: Card, height: float) -> Iterator[str]:
    attributes = ' stroke-dasharray="7 4"' if card.when else ""
    if any(mark.tone == "fail" for mark in card.marks):
        attributes += ' class="stroke-fail"'
    yield _shape(card, height, attributes)
    if card.kind is Kind.RUN:
        for x in (5, BOX_WIDTH - 5):
            yield path([(x, 0), (x, height)], ' stroke-width="0.9"')


def _shape(card: Card, height: float, attributes: str) -> str:
    if card.kind is Kind.PUBLISH:
        points = [(0, 0), (_inner_width(card.kind), 0), (BOX_WIDTH, height / 2),
                  (_inner_width(card.kind), height), (0, height)]  # fmt: skip
        commands = "M" + "L".join(f"{x:g} {y:g}" for x, y in points) + "Z"
        return shape(commands, attributes)
    radius = _CORNER_RADIUS if card.kind in (Kind.WAIT, Kind.REPLY) else 0
    return rectangle((0, 0), BOX_WIDTH, height, radius, attributes)


# --- icons, whose middle is at x = 22 -------------------------------------------------------------


def _icon(card: Card, y: float) -> Iterator[str]:
    if card.number is not None:
        yield circle((22, y), 11, ' fill="black"')
        content = str(card.number)
        size = {1: 12, 2: 12, 3: 10, 4: 8}.get(len(content), 6)
        left = 22 - len(content) * size * CHARACTER_WIDTH / 2
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
        yield rectangle((16 + by, y - 4 - by), 9, 8, attributes=' fill="white"')


def _back_arrow(y: float) -> Iterator[str]:
    yield shape(f"M16 {y + 6:g}H24A5 5 0 0 0 24 {y - 4:g}H18")
    yield shape(f"M14 {y - 4:g}L20 {y - 8:g}V{y:g}Z", ' fill="black" stroke="none"')
