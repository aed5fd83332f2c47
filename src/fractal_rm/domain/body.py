"""The bytes that a call sends, and the text that comes back. Everything stays JSON text.

A payload and a result are carried as the JSON that they will be in the next body, so making a
body is joining, and nothing is parsed on the way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from fractal_rm.domain.call import BodyForm, Reply
from fractal_rm.domain.flow import Item, Payload

_CHARSET = re.compile(r'charset\s*=\s*"?([A-Za-z0-9_.:-]+)', re.IGNORECASE)


def request_body(
    items: Sequence[Item], payload: msgspec.Raw, results: Sequence[msgspec.Raw], form: BodyForm
) -> bytes:
    """``{"payload": [item, …]}``, as JSON or as the original's Python text of it."""
    parts = [
        bytes(payload if isinstance(item, Payload) else results[item.number - 1]) for item in items
    ]
    body = b'{"payload": [' + b", ".join(parts) + b"]}"
    if form is BodyForm.PYTHON_REPR:
        return str(msgspec.json.decode(body, type=dict[str, Any])).encode()
    return body


def result_text(reply: Reply) -> msgspec.Raw:
    """The response text as a JSON string. Text is UTF-8 unless the reply names another charset."""
    return msgspec.Raw(msgspec.json.encode(_decoded(reply)))


def _decoded(reply: Reply) -> str:
    kind = reply.header("content-type")
    if kind is not None and "charset" in kind.lower():
        named = _CHARSET.search(kind)
        if named is not None:
            try:
                return reply.body.decode(named[1], "replace")
            except (LookupError, ValueError):
                pass  # a charset that Python does not have: read it as without one
    return reply.body.decode("utf-8", "replace")
