"""References, JSON templates and conditions of flows, as data.

The modules `evaluate` and `condition` evaluate these objects. The journal stores them as parts of
flows, so fields are never removed, and new fields have defaults.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Union

import msgspec


class Payload(msgspec.Struct, frozen=True, tag="payload", omit_defaults=True):
    """``payload``: the payload of the trigger, or the value that ``path`` picks from it."""

    path: str = ""


class Result(msgspec.Struct, frozen=True, tag="result", omit_defaults=True):
    """``resultN``: the result of the N-th numbered step of the flow, counted from 1.

    If ``path`` is set, the text of the result is parsed as JSON, and the path picks a value.
    """

    number: int
    path: str = ""


class Item(msgspec.Struct, frozen=True, tag="item", omit_defaults=True):
    """``item``: the current element of a FOREACH, or the value that ``path`` picks from it."""

    path: str = ""


Reference = Union[Payload, Result, Item]


class Base64(msgspec.Struct, frozen=True, tag="base64"):
    """``base64(ref)``: the bytes that ``RAW ref`` would send, encoded in base64 (RFC 4648, 4)."""

    of: Reference


# One value of a body without JSON or RAW, such as `POST payload result1`. (The class `Item` is
# something else: the element of a FOREACH.)
Piece = Union[Payload, Result, Item, Base64]


class Literal(msgspec.Struct, frozen=True, tag="literal"):
    """A JSON value that is written in the flow."""

    value: Any


class ListOf(msgspec.Struct, frozen=True, tag="list"):
    """``[value, …]``: a JSON list."""

    values: tuple[Value, ...]


class ObjectOf(msgspec.Struct, frozen=True, tag="object"):
    """``{"key": value, …}``: a JSON object. Its keys keep the order of the flow."""

    fields: tuple[tuple[str, Value], ...]


class Status(msgspec.Struct, frozen=True, tag="status"):
    """The status of the response to the call ``number``; null if there was no response."""

    number: int


class Header(msgspec.Struct, frozen=True, tag="header"):
    """A header of the response to the call ``number``; null if absent. ``name`` is lower case."""

    number: int
    name: str


class Comparison(str, Enum):
    """The operators that compare two values."""

    EQUAL = "=="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    GREATER = ">"
    AT_LEAST = ">="
    IN = "in"


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """``left operator right``: a comparison."""

    operator: Comparison = msgspec.field(name="how")
    left: Expression
    right: Expression


class AllOf(msgspec.Struct, frozen=True, tag="and"):
    """``part and part …``: parts are evaluated from the left until a part is false."""

    parts: tuple[Expression, ...]


class AnyOf(msgspec.Struct, frozen=True, tag="or"):
    """``part or part …``: parts are evaluated from the left until a part is true."""

    parts: tuple[Expression, ...]


class Not(msgspec.Struct, frozen=True, tag="not"):
    """``not part``: true if the part is false."""

    part: Expression


Value = Union[Payload, Result, Item, Base64, Literal, ListOf, ObjectOf, Status, Header]
Expression = Union[Value, Compare, AllOf, AnyOf, Not]
