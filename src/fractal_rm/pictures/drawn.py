"""A part of a picture."""

from __future__ import annotations

import msgspec


class Drawn(msgspec.Struct, frozen=True):
    """Elements from 0, 0 to the right and down, and how large they are together."""

    width: float
    height: float
    elements: list[str]
