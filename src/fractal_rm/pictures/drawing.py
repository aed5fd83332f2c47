"""A part of a picture, as SVG elements."""

from __future__ import annotations

import msgspec


class Drawing(msgspec.Struct, frozen=True):
    """SVG elements in a rectangle whose upper left corner is at 0, 0."""

    width: float
    height: float
    elements: list[str]
