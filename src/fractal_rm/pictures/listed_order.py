"""Draws steps in listed order, in as few columns as the height of a page permits."""

from __future__ import annotations

from collections.abc import Sequence

from fractal_rm.domain.flow import Reply, Step
from fractal_rm.pictures.box import BOX_WIDTH, STACK_OFFSET, draw_box
from fractal_rm.pictures.card import Card, Kind
from fractal_rm.pictures.drawing import Drawing
from fractal_rm.pictures.svg_elements import Point, arrow, circle, text, translate

_GAP = 26.0  # between two boxes, in pixels
_WIDE_GAP = 40.0  # above and below a box that has a bypass, as its step has a condition
_JOIN_DISTANCE = 12.0  # from the bottom of a box to the end of its bypass
_FORK_DISTANCE = 22.0  # from the bottom of the previous box to the start of a bypass
_BYPASS_DISTANCE = 22.0  # from the left edge of a box to its bypass
_COLUMN_GAP = 76.0  # between two columns
_FIRST_BOX_TOP = 46.0  # the y of the first box; the start symbol is above it
_END_HEIGHT = 60.0
_MAX_ASPECT_RATIO = 1.45  # height divided by width
_EXTRA_HEIGHT = 300.0  # a column may be higher by this than the ratio permits


def draw_listed(steps: Sequence[Step], cards: Sequence[Card]) -> Drawing:
    """Draw the steps in the order in which they are listed."""
    boxes = [draw_box(card) for card in cards]
    gaps = _gaps(cards)
    columns = _columns([each.height + gap for each, gap in zip(boxes, gaps, strict=True)])
    elements: list[str] = []
    height = 0.0
    start_x, radius = _BYPASS_DISTANCE + BOX_WIDTH / 2, 6
    elements.append(circle((start_x, radius), radius, ' fill="black"'))
    at: Point = (start_x, 2 * radius)  # where the arrow to the next box begins
    for number, column in enumerate(columns):
        x, y = _BYPASS_DISTANCE + number * (BOX_WIDTH + _COLUMN_GAP), _FIRST_BOX_TOP
        for index in column:
            top = y - _stack_offset(cards[index])
            is_first = index == column[0]
            elements += _entry_arrow(at, x, top, is_first=is_first)
            if cards[index].when:
                elements += _bypass(x, top, y + boxes[index].height)
            elements.append(translate(boxes[index].elements, (x, y)))
            y += boxes[index].height
            at = (x + BOX_WIDTH / 2, y)
            height = max(height, y)
            y += gaps[index]
    elements += _end(at, steps)
    width = 2 * _BYPASS_DISTANCE + len(columns) * BOX_WIDTH + (len(columns) - 1) * _COLUMN_GAP
    _, last_y = at
    return Drawing(width, max(height, last_y) + _END_HEIGHT, elements)


def _stack_offset(card: Card) -> float:
    """How far the stack of a step with FOREACH extends upwards from its box. Else 0."""
    return STACK_OFFSET if card.foreach else 0.0


def _gaps(cards: Sequence[Card]) -> list[float]:
    """The distance from each box to the next one."""
    no_card = Card(Kind.CALL, "")
    gaps: list[float] = []
    for card, below in zip(cards, [*cards, no_card][1:], strict=True):
        gap = _WIDE_GAP if card.when or below.when else _GAP
        gaps.append(gap + _stack_offset(below))
    return gaps


def _columns(heights: Sequence[float]) -> list[list[int]]:
    """The indexes of the boxes in each column: as few columns as the page's height permits."""
    total = sum(heights)
    count = 1
    while count < len(heights):
        width = count * (BOX_WIDTH + _COLUMN_GAP)
        if total / count <= _MAX_ASPECT_RATIO * width + _EXTRA_HEIGHT:
            break
        count += 1
    columns: list[list[int]] = [[]]
    filled = 0.0
    for index, height in enumerate(heights):
        if filled + height / 2 > total / count * len(columns) and len(columns) < count:
            columns.append([])
        columns[-1].append(index)
        filled += height
    return columns


def _entry_arrow(at: Point, x: float, y: float, *, is_first: bool) -> list[str]:
    """The arrow from the previous step to the top of a box.

    ``is_first``: the box is the first of its column.
    """
    start_x, start_y = at
    middle = x + BOX_WIDTH / 2
    if not is_first or start_x == middle:
        return [arrow([at, (middle, y)])]
    turn = start_y + _FORK_DISTANCE  # the y at which the arrow turns towards the next column
    between = x - _BYPASS_DISTANCE - (_COLUMN_GAP - _BYPASS_DISTANCE + STACK_OFFSET) / 2
    return [arrow([at, (start_x, turn), (between, turn), (between, 6), (middle, 6), (middle, y)])]


def _bypass(x: float, top: float, bottom: float) -> list[str]:
    """The line around a box whose step has a condition."""
    middle, left = x + BOX_WIDTH / 2, x - _BYPASS_DISTANCE
    above, below = top - _WIDE_GAP + _FORK_DISTANCE, bottom + _JOIN_DISTANCE
    return [
        arrow([(middle, above), (left, above), (left, below), (middle, below)]),
        circle((middle, above), 2, ' fill="black"'),
        text((left + 4, above + 11), "else", 10),
    ]


def _end(at: Point, steps: Sequence[Step]) -> list[str]:
    x, y = at
    has_reply = any(isinstance(step, Reply) for step in steps)
    bottom = y + 44
    elements = [
        arrow([at, (x, bottom - 9)]),
        circle((x, bottom), 9),
        circle((x, bottom), 5, ' fill="black"'),
    ]
    if steps and not has_reply:
        elements.append(text((x + 18, bottom + 4), "replies with the last result", 10))
    return elements
