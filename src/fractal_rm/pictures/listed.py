"""Steps one after another: one column, or several where that would be longer than a page is."""

from __future__ import annotations

from collections.abc import Sequence

from fractal_rm.domain.flow import Respond, Step
from fractal_rm.pictures.box import STACK, WIDTH, box
from fractal_rm.pictures.card import Card, Kind
from fractal_rm.pictures.drawn import Drawn
from fractal_rm.pictures.ink import Point, arrow, circle, moved, text

_GAP = 26.0  # between two boxes
_WIDE_GAP = 40.0  # where there is a way around one: it joins above the way around the next
_JOINS = 12.0
_FORKS = 22.0
_AROUND = 22.0  # how far to the left of a box the way around it is
_BETWEEN = 76.0  # between two columns
_TOP = 46.0  # the start, above the first box
_END = 60.0
_PAGE = 1.45  # how much higher than wide a picture may be


def listed(steps: Sequence[Step], cards: Sequence[Card]) -> Drawn:
    """Draw the steps in the order in which they are listed."""
    boxes = [box(card) for card in cards]
    gaps = _gaps(cards)
    columns = _columns([each.height + gap for each, gap in zip(boxes, gaps, strict=True)])
    elements: list[str] = []
    height = 0.0
    at: Point = (_AROUND + WIDTH / 2, 6)
    elements.append(circle(at, 6, ' fill="black"'))
    at = (at[0], at[1] + 6)
    for number, column in enumerate(columns):
        x, y = _AROUND + number * (WIDTH + _BETWEEN), _TOP
        for place in column:
            top = y - STACK * bool(cards[place].each)
            elements += _entered(at, x, top, first=place == column[0])
            if cards[place].when:
                elements += _way_around(x, top, y + boxes[place].height)
            elements.append(moved(boxes[place].elements, (x, y)))
            y += boxes[place].height
            at = (x + WIDTH / 2, y)
            height = max(height, y)
            y += gaps[place]
    elements += _end(at, says_so=any(isinstance(step, Respond) for step in steps), steps=steps)
    width = 2 * _AROUND + len(columns) * WIDTH + (len(columns) - 1) * _BETWEEN
    return Drawn(width, max(height, at[1]) + _END, elements)


def _gaps(cards: Sequence[Card]) -> list[float]:
    """How far below each box the next one stands."""
    nothing = Card(Kind.CALL, "")
    gaps: list[float] = []
    for at, card in enumerate(cards):
        below = cards[at + 1] if at + 1 < len(cards) else nothing
        forked = card.when or below.when
        gaps.append((_WIDE_GAP if forked else _GAP) + STACK * bool(below.each))
    return gaps


def _columns(heights: Sequence[float]) -> list[list[int]]:
    """Which boxes stand in which column: as few as a page in its proportions needs."""
    total = sum(heights)
    count = 1
    while count < len(heights) and total / count > _PAGE * count * (WIDTH + _BETWEEN) + 300:
        count += 1
    columns: list[list[int]] = [[]]
    filled = 0.0
    for place, height in enumerate(heights):
        if filled + height / 2 > total / count * len(columns) and len(columns) < count:
            columns.append([])
        columns[-1].append(place)
        filled += height
    return columns


def _entered(at: Point, x: float, y: float, *, first: bool) -> list[str]:
    """The arrow from the end of the step before to the top of a box."""
    middle = x + WIDTH / 2
    if not first or at[0] == middle:
        return [arrow([at, (middle, y)])]
    down = at[1] + _FORKS  # to the next column
    between = x - _AROUND - (_BETWEEN - _AROUND + STACK) / 2
    return [arrow([at, (at[0], down), (between, down), (between, 6), (middle, 6), (middle, y)])]


def _way_around(x: float, top: float, bottom: float) -> list[str]:
    """From above a box that is made on a condition to below it."""
    middle, left = x + WIDTH / 2, x - _AROUND
    above, below = top - _WIDE_GAP + _FORKS, bottom + _JOINS
    return [
        arrow([(middle, above), (left, above), (left, below), (middle, below)]),
        circle((middle, above), 2, ' fill="black"'),
        text((left + 4, above + 11), "else", 10),
    ]


def _end(at: Point, *, says_so: bool, steps: Sequence[Step]) -> list[str]:
    x, y = at
    bottom = y + 44
    elements = [
        arrow([at, (x, bottom - 9)]),
        circle((x, bottom), 9),
        circle((x, bottom), 5, ' fill="black"'),
    ]
    if steps and not says_so:
        elements.append(text((x + 18, bottom + 4), "replies with the last result", 10))
    return elements
