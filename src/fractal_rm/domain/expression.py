"""References, JSON templates and conditions as data. `evaluate` and `condition` evaluate them.

The journal stores them with their flow, so fields are only added, with defaults.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Union

import msgspec


class Payload(msgspec.Struct, frozen=True, tag="payload", omit_defaults=True):
    """``payload``: the payload of the trigger, or the value that a JMESPath picks from it."""

    path: str = ""


class Result(msgspec.Struct, frozen=True, tag="result", omit_defaults=True):
    """``resultN``: the result of the N-th numbered step of the flow, counted from 1.

    With a ``path``, the text of the result is parsed as JSON, and the JMESPath is applied to it.
    """

    number: int
    path: str = ""


class Item(msgspec.Struct, frozen=True, tag="item", omit_defaults=True):
    """``item``: the element of a FOREACH that a call is made for, or what a path picks from it."""

    path: str = ""


Reference = Union[Payload, Result, Item]


class Base64(msgspec.Struct, frozen=True, tag="base64"):
    """``base64(ref)``: the bytes that ``RAW ref`` would send, encoded in base64 (RFC 4648, 4)."""

    of: Reference


Piece = Union[Payload, Result, Item, Base64]  # an item of a body


class Literal(msgspec.Struct, frozen=True, tag="literal"):
    """A JSON value that the flow itself contains."""

    value: Any


class ListOf(msgspec.Struct, frozen=True, tag="list"):
    """``[value, …]``."""

    values: tuple[Value, ...]


class ObjectOf(msgspec.Struct, frozen=True, tag="object"):
    """``{"key": value, …}``, in the order of the flow."""

    fields: tuple[tuple[str, Value], ...]


class Status(msgspec.Struct, frozen=True, tag="status"):
    """The status of the response to the N-th call; null if it has no response."""

    number: int


class Header(msgspec.Struct, frozen=True, tag="header"):
    """A header of the response to the N-th call; null if it has none. ``name`` in lower case."""

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
    """``part and part …``: evaluated from the left until one is false."""

    parts: tuple[Expression, ...]


class AnyOf(msgspec.Struct, frozen=True, tag="or"):
    """``part or part …``: evaluated from the left until one is true."""

    parts: tuple[Expression, ...]


class Not(msgspec.Struct, frozen=True, tag="not"):
    """``not part``."""

    part: Expression


Value = Union[Payload, Result, Item, Base64, Literal, ListOf, ObjectOf, Status, Header]
Expression = Union[Value, Compare, AllOf, AnyOf, Not]
