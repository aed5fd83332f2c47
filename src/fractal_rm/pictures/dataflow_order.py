"""Draws steps in dataflow order. Each step is below the steps that it needs; arrows connect them.

Boxes are in a grid. The space between two rows is called a channel, the space between two columns
a gutter. A line starts at the middle of the bottom of a box, and runs through the channel below the
box. If the target of the line is not in the next row, the line then runs down through a gutter, and
through the channel above the target. In each channel and gutter, the lines of a box have a lane of
their own. So lines of two boxes may cross, but never overlap, and no line runs through a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from fractal_rm.domain.flow import Step
from fractal_rm.pictures.box import BOX_WIDTH, STACK_OFFSET, Box, draw_box
from fractal_rm.pictures.card import Card
from fractal_rm.pictures.drawing import Drawing
from fractal_rm.pictures.order import layers, predecessors
from fractal_rm.pictures.svg_elements import Point, arrow, text, translate

_MAX_COLUMNS = 4
_LANE_DISTANCE = 9.0  # between two parallel lines, in pixels
_GUTTER_WIDTH = 22.0  # the width of a gutter without lanes
_CHANNEL_HEIGHT = 40.0  # the height of a channel without lanes
_CAPTION = "a step begins when all steps with an arrow to it have finished"
_ARROW_DISTANCE = 12.0  # between two arrows that end at one box
_ARROW_ROOM = 14.0  # above a row of boxes


class _Cell(NamedTuple):
    row: int
    column: int


class _Edge(NamedTuple):
    """A line from one box to another. ``gutter`` is None if the target is in the next row."""

    source: int
    target: int
    gutter: int | None


def draw_dataflow(steps: Sequence[Step], cards: Sequence[Card]) -> Drawing:
    """Draw the steps of a flow in dataflow order."""
    if not steps:
        return Drawing(0, 0, [])
    sources_of = predecessors(steps)
    cells = _place_boxes(sources_of)
    edges = [
        _Edge(source, target, _gutter(cells[source], cells[target]))
        for target, sources in enumerate(sources_of)
        for source in sources
    ]
    return _Grid(cells, edges, [draw_box(card) for card in cards], cards).draw()


def _place_boxes(sources_of: Sequence[Sequence[int]]) -> list[_Cell]:
    """The cell of each step. It is in a row below the steps that it needs, and near them."""
    layered = layers(sources_of)
    count = min(_MAX_COLUMNS, max(map(len, layered)))
    cells: dict[int, _Cell] = {}
    row = 0
    for layer in layered:
        ideal_columns = {each: _ideal_column(sources_of[each], cells, count) for each in layer}
        ordered = sorted(layer, key=lambda each: (ideal_columns[each], each))
        for start in range(0, len(ordered), count):
            in_row = ordered[start : start + count]
            columns = _assign_columns([ideal_columns[each] for each in in_row], count)
            for each, column in zip(in_row, columns, strict=True):
                cells[each] = _Cell(row, column)
            row += 1
    return [cells[each] for each in range(len(sources_of))]


def _assign_columns(ideal_columns: Sequence[float], count: int) -> list[int]:
    """The columns of the boxes in a row: near ``ideal_columns``, and each greater than the last."""
    columns: list[int] = []
    for index, column in enumerate(ideal_columns):
        spread = index - ideal_columns.index(column) - (ideal_columns.count(column) - 1) / 2
        first = columns[-1] + 1 if columns else 0
        last = count - (len(ideal_columns) - index)
        columns.append(max(first, min(ceil(column + spread - 0.5), last)))
    return columns


def _ideal_column(sources: Sequence[int], cells: dict[int, _Cell], count: int) -> float:
    if not sources:
        return (count - 1) / 2
    return sum(cells[each].column for each in sources) / len(sources)


def _gutter(source: _Cell, target: _Cell) -> int | None:
    """The gutter that a line uses, or None. Gutter N is to the left of column N."""
    if target.row == source.row + 1:
        return None
    return source.column + 1 if target.column > source.column else source.column


class _Grid:
    """Computes the sizes of channels and gutters, and then the positions of boxes and lines."""

    def __init__(
        self, cells: list[_Cell], edges: list[_Edge], boxes: list[Box], cards: Sequence[Card]
    ) -> None:
        self._cells = cells
        self._edges = edges
        self._boxes = boxes
        self._cards = cards
        # For each channel and gutter, the boxes whose lines use it. A channel has the number of
        # the row above it.
        self._channels: dict[int, list[int]] = {}
        self._gutters: dict[int, list[int]] = {}
        for edge in edges:
            if not self._is_straight(edge):
                self._add_lane(self._channels, cells[edge.source].row, edge.source)
            if edge.gutter is not None:
                self._add_lane(self._channels, cells[edge.target].row - 1, edge.source)
                self._add_lane(self._gutters, edge.gutter, edge.source)
        self._lefts = self._column_lefts()
        self._tops = self._row_tops()
        self._offsets = self._arrow_offsets()

    def draw(self) -> Drawing:
        """Draw all boxes and lines."""
        elements = [text((self._lefts[0], 0), _CAPTION, 10)]
        elements += [arrow(self._points(edge)) for edge in self._edges]
        for index, box in enumerate(self._boxes):
            cell = self._cells[index]
            elements.append(
                translate(box.elements, (self._lefts[cell.column], self._tops[cell.row]))
            )
        return Drawing(self._lefts[-1], self._tops[-1], elements)

    @staticmethod
    def _add_lane(lanes: dict[int, list[int]], index: int, source: int) -> None:
        """Add a lane to the channel or gutter ``index``, for the lines of the box ``source``."""
        sources = lanes.setdefault(index, [])
        if source not in sources:
            sources.append(source)

    def _is_straight(self, edge: _Edge) -> bool:
        same_column = self._cells[edge.source].column == self._cells[edge.target].column
        return edge.gutter is None and same_column

    def _column_lefts(self) -> list[float]:
        """The x of the left edge of each column; the last is the right edge of the last gutter."""
        count = max(cell.column for cell in self._cells) + 1
        lefts: list[float] = []
        x = 0.0
        for column in range(count + 1):
            x += self._gutter_width(column)
            lefts.append(x)
            x += BOX_WIDTH
        return lefts

    def _gutter_width(self, gutter: int) -> float:
        return _GUTTER_WIDTH + len(self._gutters.get(gutter, ())) * _LANE_DISTANCE

    def _row_tops(self) -> list[float]:
        """The y of the top of each row; the last is the bottom of the last row."""
        heights = [0.0] * (max(cell.row for cell in self._cells) + 1)
        for box, cell in zip(self._boxes, self._cells, strict=True):
            heights[cell.row] = max(heights[cell.row], box.height)
        tops: list[float] = []
        y = STACK_OFFSET + _ARROW_ROOM
        for row, height in enumerate(heights):
            tops.append(y)
            y += height + _CHANNEL_HEIGHT + len(self._channels.get(row, ())) * _LANE_DISTANCE
        return [*tops, y - _CHANNEL_HEIGHT]

    def _arrow_offsets(self) -> dict[_Edge, float]:
        """The horizontal distance of each arrow head from the middle of its target box."""
        sides: dict[tuple[int, bool], list[_Edge]] = {}
        offsets: dict[_Edge, float] = {}
        for edge in self._edges:
            if self._is_straight(edge):
                offsets[edge] = 0
            else:
                sides.setdefault((edge.target, self._from_left(edge)), []).append(edge)
        for (_, from_left), edges in sides.items():
            gap = min(_ARROW_DISTANCE, (BOX_WIDTH / 2 - 20) / len(edges))
            edges.sort(key=self._arrival, reverse=from_left)
            for number, edge in enumerate(edges, 1):
                offsets[edge] = -gap * number if from_left else gap * number
        return offsets

    def _from_left(self, edge: _Edge) -> bool:
        target = self._cells[edge.target].column
        if edge.gutter is None:
            return self._cells[edge.source].column < target
        return edge.gutter <= target

    def _arrival(self, edge: _Edge) -> tuple[float, int]:
        """The key that sorts the arrows that end at one box from left to right."""
        return self._vertical_x(edge), edge.source

    def _vertical_x(self, edge: _Edge) -> float:
        """The x at which a line runs down to the channel above its target."""
        if edge.gutter is None:
            return self._middle_x(edge.source)
        lane = self._gutters[edge.gutter].index(edge.source)
        end = self._lefts[edge.gutter] - _GUTTER_WIDTH / 2
        return (
            end - (len(self._gutters[edge.gutter]) - 1 - lane) * _LANE_DISTANCE - _LANE_DISTANCE / 2
        )

    def _middle_x(self, index: int) -> float:
        return self._lefts[self._cells[index].column] + BOX_WIDTH / 2

    def _lane_y(self, row: int, source: int) -> float:
        """The y of the lane of the box ``source`` in the channel below a row."""
        lanes = self._channels[row]
        below = len(lanes) - lanes.index(source)
        return self._tops[row + 1] - STACK_OFFSET - _ARROW_ROOM - below * _LANE_DISTANCE

    def _points(self, edge: _Edge) -> list[Point]:
        source, target = self._cells[edge.source], self._cells[edge.target]
        x = self._middle_x(edge.source)
        start = (x, self._tops[source.row] + self._boxes[edge.source].height)
        end_x = self._middle_x(edge.target) + self._offsets[edge]
        is_stack = bool(self._cards[edge.target].foreach)
        end_y = self._tops[target.row]
        if is_stack:
            end_y -= STACK_OFFSET
        end = (end_x, end_y)
        if self._is_straight(edge):
            return [start, end]
        across = self._lane_y(source.row, edge.source)
        if edge.gutter is None:
            return [start, (x, across), (end_x, across), end]
        down, last_lane = self._vertical_x(edge), self._lane_y(target.row - 1, edge.source)
        return [start, (x, across), (down, across), (down, last_lane), (end_x, last_lane), end]
