"""Reads the query of a request strictly: no unknown, repeated, empty or badly encoded parameter.

A handler names the struct of its parameters in ``opt={"query": …}``. `check_query` refuses every
other parameter before the handler is called, so no filter is ever silently ignored.
"""

from __future__ import annotations

import re
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin
from urllib.parse import unquote_to_bytes

import msgspec
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from fractal_rm.domain.errors import FractalError

MAX_PARAMETERS = 100
MAX_DIGITS = 15  # of a whole number
_BOOLEANS = {"true": True, "false": False}
_SHOWN = 40  # characters of a parameter's name that a problem shows
_PATH = re.compile(r" - at `\$(\[[0-9.]*\])?`$")
T = TypeVar("T", bound=msgspec.Struct)


class NoParameters(msgspec.Struct, frozen=True):
    """The query of a path without parameters."""


class BadParameter(FractalError):
    """The query of a request is not valid. The text names each wrong parameter and its fault."""

    code = "bad-parameter"


async def check_query(
    connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
) -> None:
    """Refuse a request with a parameter that its path does not have. Raises BadParameter."""
    query = connection.scope["query_string"]
    if query:
        _ = read_query(query, handler.opt.get("query", NoParameters))


def read_query(query: bytes, kind: type[T]) -> T:
    """The parameters as a value of the struct ``kind``. Raises BadParameter.

    A parameter whose type is a tuple may be repeated. Its values may also be separated by commas.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    faults: list[str] = []
    for name, texts in (_texts_by_name(query) if query else {}).items():
        field = fields.get(name)
        if field is None:
            known = ", ".join(fields) or "none"
            faults.append(f"{name[:_SHOWN]}: there is no such parameter; this path has {known}")
            continue
        try:
            values[field.name] = _value(texts, field.type)
        except (BadParameter, msgspec.ValidationError) as error:
            faults.append(f"{name}: {_PATH.sub('', str(error))}")
    faults += [
        f"{name}: it is required"
        for name, field in fields.items()
        if field.required and field.name not in values and not faults
    ]
    if faults:
        raise BadParameter("; ".join(faults[:8]))
    return kind(**values)


def _texts_by_name(query: bytes) -> dict[str, list[str]]:
    parts = query.split(b"&")
    if len(parts) > MAX_PARAMETERS:
        raise BadParameter(f"there are more than {MAX_PARAMETERS} parameters")
    texts: dict[str, list[str]] = {}
    for part in parts:
        name, _, value = part.partition(b"=")
        if not part:
            raise BadParameter(
                "there is an empty parameter: two & follow each other, or one is last"
            )
        texts.setdefault(_decoded(name), []).append(_decoded(value))
    return texts


def _decoded(text: bytes) -> str:
    try:
        return unquote_to_bytes(text.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise BadParameter("a parameter is not UTF-8") from None


def _value(texts: list[str], kind: Any) -> Any:
    """Convert the texts of one parameter. Raises BadParameter and msgspec.ValidationError."""
    kind = _without_none(kind)
    is_list = get_origin(_plain(kind)) is tuple
    if is_list:
        texts = [each for text in texts for each in text.split(",")]
        repeated = [text[:_SHOWN] for text in texts if texts.count(text) > 1]
        if repeated:
            raise BadParameter(f"the value {repeated[0]} is given twice")
    elif len(texts) > 1:
        raise BadParameter(f"it is given {len(texts)} times")
    if "" in texts:
        raise BadParameter("it is empty; leave it out instead")
    if is_list:
        return msgspec.convert(texts, kind)
    return msgspec.convert(_simple_value(texts[0], kind), kind)


def _simple_value(text: str, kind: Any) -> bool | int | str:
    """The value of a text, if ``kind`` is a boolean or a whole number. Otherwise the text."""
    base = _plain(kind)
    if base is bool and text in _BOOLEANS:
        return _BOOLEANS[text]
    if base is int and len(text) <= MAX_DIGITS and text.isascii() and text.isdigit():
        return int(text)
    return text


def _plain(kind: Any) -> Any:
    """A type without its limits."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _without_none(kind: Any) -> Any:
    """The type of a parameter that is given."""
    kinds = [each for each in get_args(kind) if each is not type(None)]
    return kinds[0] if get_origin(kind) in (Union, UnionType) and len(kinds) == 1 else kind
