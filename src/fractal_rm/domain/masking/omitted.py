"""Says in a fact that the value of the fact is not complete."""

from __future__ import annotations

from enum import Enum

import msgspec


class Omission(str, Enum):
    """What is missing in a value: all of it, all but its first bytes, or the masked fields."""

    ALL = "all"
    REST = "rest"
    FIELDS = "fields"


class Omitted(msgspec.Struct, frozen=True, gc=False):
    """The value of a fact is not complete, because its flow has KEEP or MASK.

    ``size`` is the size of the complete value, in bytes.
    """

    what: Omission
    size: int
