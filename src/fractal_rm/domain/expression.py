"""References, JSON templates and conditions, as values. `evaluate` and `condition` work them out.

The journal keeps them with their flow, so fields are only ever added, with defaults.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Union

import msgspec


class Payload(msgspec.Struct, frozen=True, tag="payload", omit_defaults=True):
    """``payload``: the trigger's payload, as it came; or what a JMESPath picks from it."""

    path: str = ""


class Result(msgspec.Struct, frozen=True, tag="result", omit_defaults=True):
    """The response text of the N-th call of the flow, counted from 1.

    With a ``path`` the text is read as JSON, and it is what the JMESPath picks from it.
    """

    number: int
    path: str = ""


class Item(msgspec.Struct, frozen=True, tag="item", omit_defaults=True):
    """``item``: the element of a FOREACH that a call is made for, or what a path picks from it."""

    path: str = ""


Reference = Union[Payload, Result, Item]


class Base64(msgspec.Struct, frozen=True, tag="base64"):
    """``base64(ref)``: the bytes that ``RAW ref`` would send, as a text in base64 (RFC 4648, 4)."""

    of: Reference


Piece = Union[Payload, Result, Item, Base64]  # what items are


class Literal(msgspec.Struct, frozen=True, tag="literal"):
    """A value that stands in the flow itself: what JSON can hold."""

    value: Any


class ListOf(msgspec.Struct, frozen=True, tag="list"):
    """``[value, …]``."""

    values: tuple[Value, ...]


class ObjectOf(msgspec.Struct, frozen=True, tag="object"):
    """``{"key": value, …}``, in the order in which it is written."""

    fields: tuple[tuple[str, Value], ...]


class Status(msgspec.Struct, frozen=True, tag="status"):
    """The status that the N-th call was answered with; null where it has none."""

    number: int


class Header(msgspec.Struct, frozen=True, tag="header"):
    """A header of the answer to the N-th call; null where it has none. ``name`` in lower case."""

    number: int
    name: str


class Comparison(str, Enum):
    """How two values are compared."""

    EQUAL = "=="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    GREATER = ">"
    AT_LEAST = ">="
    IN = "in"


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """``left how right``."""

    how: Comparison
    left: Expression
    right: Expression


class AllOf(msgspec.Struct, frozen=True, tag="and"):
    """``part and part …``: read from the left until one is false."""

    parts: tuple[Expression, ...]


class AnyOf(msgspec.Struct, frozen=True, tag="or"):
    """``part or part …``: read from the left until one is true."""

    parts: tuple[Expression, ...]


class Not(msgspec.Struct, frozen=True, tag="not"):
    """``not part``."""

    part: Expression


Value = Union[Payload, Result, Item, Base64, Literal, ListOf, ObjectOf, Status, Header]
Expression = Union[Value, Compare, AllOf, AnyOf, Not]
