"""A part of a picture."""

from __future__ import annotations

import msgspec


class Drawn(msgspec.Struct, frozen=True):
    """Elements to the right of and below 0, 0, with their width and height."""

    width: float
    height: float
    elements: list[str]
