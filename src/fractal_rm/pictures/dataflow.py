"""Draws steps in dataflow order: each step below the steps that it needs, with an arrow from each.

Boxes are in a grid. A line starts at the middle of the bottom of a box and runs through the channel
under its row. If it passes other rows, it runs down through a gutter between two columns, and then
through the channel above its target box. Every box has its own lane in every channel and gutter
that its lines use: lines of two boxes may cross, but never overlap, and never run through a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from fractal_rm.domain.flow import Step
from fractal_rm.pictures.box import STACK, WIDTH, Box, box
from fractal_rm.pictures.card import Card
from fractal_rm.pictures.drawn import Drawn
from fractal_rm.pictures.ink import Point, arrow, moved, text
from fractal_rm.pictures.order import layers, predecessors

_MOST_COLUMNS = 4
_LANE = 9.0  # between two parallel lines
_GUTTER = 22.0  # without its lanes
_CHANNEL = 40.0
_CAPTION = "a step begins when all steps with an arrow to it have finished"
_PORT = 12.0  # between two arrows into one box


class _Cell(NamedTuple):
    row: int
    column: int


class _Edge(NamedTuple):
    """From one box to another; ``gutter`` is None if the target is in the next row."""

    source: int
    target: int
    gutter: int | None


def dataflow(steps: Sequence[Step], cards: Sequence[Card]) -> Drawn:
    """Draw the steps of a flow in dataflow order."""
    if not steps:
        return Drawn(0, 0, [])
    before = predecessors(steps)
    cells = _cells(before)
    edges = [
        _Edge(source, target, _gutter(cells[source], cells[target]))
        for target, sources in enumerate(before)
        for source in sources
    ]
    return _Grid(cells, edges, [box(card) for card in cards], cards).drawn()


def _cells(before: Sequence[Sequence[int]]) -> list[_Cell]:
    """The cell of each step: below the steps that it needs, and near to them."""
    layered = layers(before)
    count = min(_MOST_COLUMNS, max(map(len, layered)))
    cells: dict[int, _Cell] = {}
    row = 0
    for layer in layered:
        wanted = {each: _wanted(before[each], cells, count) for each in layer}
        ordered = sorted(layer, key=lambda each: (wanted[each], each))
        for start in range(0, len(ordered), count):
            in_row = ordered[start : start + count]
            columns = _side_by_side([wanted[each] for each in in_row], count)
            for each, column in zip(in_row, columns, strict=True):
                cells[each] = _Cell(row, column)
            row += 1
    return [cells[each] for each in range(len(before))]


def _side_by_side(wanted: Sequence[float], count: int) -> list[int]:
    """Columns in this order, each near to the wanted one; equal wishes are spread around it."""
    columns: list[int] = []
    for at, wish in enumerate(wanted):
        spread = at - wanted.index(wish) - (wanted.count(wish) - 1) / 2
        first = columns[-1] + 1 if columns else 0
        columns.append(max(first, min(ceil(wish + spread - 0.5), count - (len(wanted) - at))))
    return columns


def _wanted(before: Sequence[int], cells: dict[int, _Cell], count: int) -> float:
    if not before:
        return (count - 1) / 2
    return sum(cells[each].column for each in before) / len(before)


def _gutter(source: _Cell, target: _Cell) -> int | None:
    """The gutter of a line; gutter N is left of column N."""
    if target.row == source.row + 1:
        return None
    return source.column + (target.column > source.column)


class _Grid:
    """Computes the widths of channels and gutters, and from them all positions."""

    def __init__(
        self, cells: list[_Cell], edges: list[_Edge], boxes: list[Box], cards: Sequence[Card]
    ) -> None:
        self._cells = cells
        self._edges = edges
        self._boxes = boxes
        self._cards = cards
        self._channels: dict[int, list[int]] = {}  # row above -> boxes whose lines use it
        self._gutters: dict[int, list[int]] = {}
        for edge in edges:
            if not self._is_straight(edge):
                self._use(self._channels, cells[edge.source].row, edge.source)
            if edge.gutter is not None:
                self._use(self._channels, cells[edge.target].row - 1, edge.source)
                self._use(self._gutters, edge.gutter, edge.source)
        self._lefts = self._columns()
        self._tops = self._rows()
        self._ports = self._entries()

    def drawn(self) -> Drawn:
        """The whole grid."""
        elements = [text((self._lefts[0], 0), _CAPTION, 10)]
        elements += [arrow(self._points(edge)) for edge in self._edges]
        for place, drawn in enumerate(self._boxes):
            cell = self._cells[place]
            elements.append(moved(drawn.elements, (self._lefts[cell.column], self._tops[cell.row])))
        return Drawn(self._lefts[-1], self._tops[-1], elements)

    @staticmethod
    def _use(lanes: dict[int, list[int]], place: int, source: int) -> None:
        used = lanes.setdefault(place, [])
        if source not in used:
            used.append(source)

    def _is_straight(self, edge: _Edge) -> bool:
        same = self._cells[edge.source].column == self._cells[edge.target].column
        return edge.gutter is None and same

    def _columns(self) -> list[float]:
        """The x of each column, and of the end of the last gutter."""
        count = max(cell.column for cell in self._cells) + 1
        lefts: list[float] = []
        x = 0.0
        for column in range(count + 1):
            x += self._gutter_width(column)
            lefts.append(x)
            x += WIDTH
        return lefts

    def _gutter_width(self, gutter: int) -> float:
        return _GUTTER + len(self._gutters.get(gutter, ())) * _LANE

    def _rows(self) -> list[float]:
        """The y of each row, and of the end of the last one."""
        heights = [0.0] * (max(cell.row for cell in self._cells) + 1)
        for drawn, cell in zip(self._boxes, self._cells, strict=True):
            heights[cell.row] = max(heights[cell.row], drawn.height)
        tops: list[float] = []
        y = STACK + 14
        for row, height in enumerate(heights):
            tops.append(y)
            y += height + _CHANNEL + len(self._channels.get(row, ())) * _LANE
        return [*tops, y - _CHANNEL]

    def _entries(self) -> dict[_Edge, float]:
        """The distance of each arrow from the middle of its target box."""
        sides: dict[tuple[int, bool], list[_Edge]] = {}
        ports: dict[_Edge, float] = {}
        for edge in self._edges:
            if self._is_straight(edge):
                ports[edge] = 0
            else:
                sides.setdefault((edge.target, self._from_left(edge)), []).append(edge)
        for (_, left), edges in sides.items():
            gap = min(_PORT, (WIDTH / 2 - 20) / len(edges))
            edges.sort(key=self._arrival, reverse=left)
            for number, edge in enumerate(edges, 1):
                ports[edge] = -gap * number if left else gap * number
        return ports

    def _from_left(self, edge: _Edge) -> bool:
        target = self._cells[edge.target].column
        if edge.gutter is None:
            return self._cells[edge.source].column < target
        return edge.gutter <= target

    def _arrival(self, edge: _Edge) -> tuple[float, int]:
        return self._vertical(edge), edge.source

    def _vertical(self, edge: _Edge) -> float:
        """The x of the vertical part of a line."""
        if edge.gutter is None:
            return self._middle(edge.source)
        lane = self._gutters[edge.gutter].index(edge.source)
        end = self._lefts[edge.gutter] - _GUTTER / 2
        return end - (len(self._gutters[edge.gutter]) - 1 - lane) * _LANE - _LANE / 2

    def _middle(self, place: int) -> float:
        return self._lefts[self._cells[place].column] + WIDTH / 2

    def _lane(self, row: int, source: int) -> float:
        """The y of the lane of a box in the channel under a row."""
        lanes = self._channels[row]
        below = len(lanes) - lanes.index(source)
        return self._tops[row + 1] - STACK - 14 - below * _LANE

    def _points(self, edge: _Edge) -> list[Point]:
        source, target = self._cells[edge.source], self._cells[edge.target]
        x = self._middle(edge.source)
        start = (x, self._tops[source.row] + self._boxes[edge.source].height)
        into = self._middle(edge.target) + self._ports[edge]
        end = (into, self._tops[target.row] - STACK * bool(self._cards[edge.target].foreach))
        if self._is_straight(edge):
            return [start, end]
        across = self._lane(source.row, edge.source)
        if edge.gutter is None:
            return [start, (x, across), (into, across), end]
        down, again = self._vertical(edge), self._lane(target.row - 1, edge.source)
        return [start, (x, across), (down, across), (down, again), (into, again), end]
