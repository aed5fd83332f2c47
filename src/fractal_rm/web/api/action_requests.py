"""Reads the requests of operators: their body, `Idempotency-Key` and `If-Match`."""

from __future__ import annotations

import secrets
from typing import Any, TypeVar

import msgspec
from litestar import Request

from fractal_rm.domain.actions import ActionDone, AnyAction
from fractal_rm.domain.actions import ActionRequest as Asked
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.refusals import WrongShape
from fractal_rm.domain.strict_json import read_json_as
from fractal_rm.engine.ports.actions import Actions
from fractal_rm.web.api.identity import identity_of
from fractal_rm.web.api.query import BadParameter
from fractal_rm.web.api.trigger_requests import check_content_type, read_body

MAX_KEY = 200  # characters of an Idempotency-Key
MAX_BODY_BYTES = 64 * 1024
AnyRequest = Request[Any, Any, Any]
T = TypeVar("T")


class Changed(FractalError):
    """What a request wants to change is not what its sender has seen (RFC 9110, 13.1.1)."""

    code = "changed"


async def read_body_as(
    request: AnyRequest, kind: type[T], expected: str, max_bytes: int = MAX_BODY_BYTES
) -> T:
    """The body as a value of ``kind``. ``expected`` says what it must be. Raises Refused."""
    _ = check_content_type(request)
    try:
        return read_json_as(await read_body(request, max_bytes), kind)
    except msgspec.ValidationError as error:
        raise WrongShape(f"{expected}: {error}") from None


async def read_options(request: AnyRequest, kind: type[T], max_bytes: int = MAX_BODY_BYTES) -> T:
    """The options of an action: a JSON object, or nothing for the defaults. Raises Refused."""
    body = await read_body(request, max_bytes)
    if not body:
        return kind()
    _ = check_content_type(request)
    try:
        return read_json_as(body, kind)
    except msgspec.ValidationError as error:
        raise WrongShape(f"the options of this action are not valid: {error}") from None


def request_id_of(request: AnyRequest) -> str:
    """The id of a request. A request with the same `Idempotency-Key` and sender has the same id.

    Raises BadParameter.
    """
    keys = request.headers.getall("idempotency-key", [])
    if not keys:
        return secrets.token_hex(16)
    key = keys[0]
    if len(keys) > 1 or not 0 < len(key) <= MAX_KEY or not (key.isascii() and key.isprintable()):
        raise BadParameter(
            f"Idempotency-Key: give it once, with at most {MAX_KEY} printable ASCII characters"
        )
    return f"{identity_of(request).name}/{key}"


async def act_once(
    actions: Actions, request: AnyRequest, action: AnyAction, key: str
) -> ActionDone:
    """Do an action for the sender of a request; once for each ``key``. Raises ActionRefused."""
    actor = identity_of(request).name
    return await actions.act(Asked(action, actor, f"{actor}/{key}"))


async def act(actions: Actions, request: AnyRequest, action: AnyAction) -> ActionDone:
    """Do an action for the sender of a request. Raises ActionRefused and BadParameter."""
    return await actions.act(Asked(action, identity_of(request).name, request_id_of(request)))


def check_if_match(request: AnyRequest, etag: str) -> None:
    """Raise Changed if the request has `If-Match` without ``etag``."""
    wanted = request.headers.getall("if-match", [])
    if wanted and not _names(wanted, etag):
        raise Changed(f"If-Match does not name the present version, {etag}: read it again")


def has_if_match(request: AnyRequest) -> bool:
    """Whether the request is for a certain version only."""
    return "if-match" in request.headers


def is_not_modified(request: AnyRequest, etag: str) -> bool:
    """Whether the sender of a GET has this version already (RFC 9110, 13.1.2)."""
    return _names(request.headers.getall("if-none-match", []), etag)


def _names(lines: list[str], etag: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for line in lines for tag in line.split(",")}
    return "*" in tags or etag in tags
