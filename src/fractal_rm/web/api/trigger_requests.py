"""Reads triggers from HTTP requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from litestar import Request

from fractal_rm.domain.refusals import (
    Malformed,
    TooLarge,
    WrongContentCoding,
    WrongContentType,
    WrongShape,
)
from fractal_rm.domain.trigger import Arrival, TriggerMetadata, TriggerSource

MAX_WAIT_S = 300
MAX_DIGITS = 15  # of a number of milliseconds: a journal can store all such numbers
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})\"?", re.IGNORECASE)


async def read_arrival(
    request: Request[Any, Any, Any], flow_id: str | None, max_bytes: int
) -> Arrival:
    """Read the body and the headers of a trigger. Raises Refused."""
    content_type = check_content_type(request)
    body = await read_body(request, max_bytes)
    key = request.headers.get("idempotency-key")
    return Arrival(TriggerSource.REST, body, key, flow_id, read_metadata(request, content_type))


def read_metadata(request: Request[Any, Any, Any], content_type: str) -> TriggerMetadata | None:
    """Read the metadata of a trigger from the headers, without its id. Raises WrongShape."""
    trace, time_left = (request.headers.get(name) for name in ("traceparent", "fractal-time-left"))
    is_plain = content_type == "application/json"
    if is_plain and trace is None and time_left is None:
        return None
    return TriggerMetadata(
        left_ms=None if time_left is None else _time_left_ms(time_left),
        content_type=content_type,
        traceparent=trace,
    )


def _time_left_ms(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and int(text) > 0):
        raise WrongShape("Fractal-Time-Left must be a positive whole number, in milliseconds")
    return int(text)


def check_content_type(request: Request[Any, Any, Any]) -> str:
    """Return the media type of the body. Raises WrongContentType unless it is a JSON type."""
    header = request.headers.get("content-type", "")
    media_type = header.partition(";")[0].strip().lower()
    is_other_json = media_type.startswith("application/") and "+json" in media_type
    if media_type != "application/json" and not is_other_json:
        raise WrongContentType(
            f"the content type is {header[:60]!r}" if header else "there is no content type"
        )
    return media_type


def explain_malformed(
    request: Request[Any, Any, Any], error: Malformed
) -> Malformed | WrongContentCoding:
    """Return the error for a body that is not JSON. It names the content coding if there is one."""
    codings = ", ".join(request.headers.getall("content-encoding", []))
    if {each.strip().lower() for each in codings.split(",")} <= {"identity", ""}:
        return error
    return WrongContentCoding(f"the coding is {codings[:60]!r}, and the body is not JSON: {error}")


async def read_body(request: Request[Any, Any, Any], max_bytes: int) -> bytes:
    """Read the body. Raises TooLarge for more than ``max_bytes``, if possible before reading."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise TooLarge(f"the body has {length} bytes; at most {max_bytes} are allowed")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"the body has more than {max_bytes} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def preferred_wait_s(prefer: Sequence[str]) -> int | None:
    """Return the seconds of ``wait`` in ``Prefer`` headers (RFC 7240, 4.3), or None."""
    for line in prefer:
        match = _WAIT.search(line)
        if match:
            return min(int(match[1]), MAX_WAIT_S)
    return None
