"""Draws the steps of a flow for a page, with what the page says about each step."""

from __future__ import annotations

from collections.abc import Sequence

from fractal_rm.domain.flow import Flow, Order
from fractal_rm.pictures.card import Card
from fractal_rm.pictures.dataflow_order import draw_dataflow
from fractal_rm.pictures.listed_order import draw_listed
from fractal_rm.pictures.svg_elements import part_of_page, translate

MARGIN = 12.0  # for lines, and for the sheets of a stack


def page_picture(flow: Flow, cards: Sequence[Card], label: str) -> str:
    """An SVG element with the steps of a flow. ``cards`` are those of its steps, with marks.

    It has no fonts and no colours of its own but black and white: the style sheet replaces these.
    All texts are escaped. Characters that are not printable are replaced.
    """
    draw = draw_dataflow if flow.order is Order.DATAFLOW else draw_listed
    drawn = draw(flow.steps, cards)
    moved = translate(drawn.elements, (MARGIN, MARGIN))
    return part_of_page([moved], drawn.width + 2 * MARGIN, drawn.height + 2 * MARGIN, label)
