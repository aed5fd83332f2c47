"""A part of a picture, as SVG elements."""

from __future__ import annotations

import msgspec


class Drawing(msgspec.Struct, frozen=True):
    """SVG elements between 0, 0 and their width and height."""

    width: float
    height: float
    elements: list[str]
