"""The bytes that a call sends, and the text that comes back. Everything stays JSON text.

A payload and a result are carried as the JSON that they will be in the next body, so making a
body is joining, and nothing is parsed on the way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from encodings.aliases import aliases
from typing import Any

import msgspec

from fractal_rm.domain.call import BodyForm, Reply
from fractal_rm.domain.evaluate import Seen, as_json, as_text
from fractal_rm.domain.expression import ListOf, Payload, Reference
from fractal_rm.domain.flow import Call, Terms

_CHARSET = re.compile(r'charset\s*=\s*"?([A-Za-z0-9_.:-]+)', re.IGNORECASE)

# A component names the charset, so only those are read that cost what the text is long and yield
# nothing but characters. Of what Python has besides, punycode takes the square of the length, and
# unicode_escape and UTF-7 yield halves of surrogate pairs, which no JSON can hold.
_CODECS = frozenset({
    "utf_8", "utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le",
    "ascii", "latin_1", *(f"iso8859_{part}" for part in (*range(2, 12), *range(13, 17))),
    *(f"cp125{page}" for page in range(9)), "koi8_r", "koi8_u",
    "gb2312", "gbk", "gb18030", "big5", "shift_jis", "cp932", "euc_jp", "euc_kr", "cp949",
})  # fmt: skip
# Python is not asked for any other name: it would keep every name that it was ever asked for.
_BY_NAME = {codec: codec for codec in _CODECS} | {
    alias: codec for alias, codec in aliases.items() if codec in _CODECS
}

SKIPPED = msgspec.Raw(b"null")  # the result of a call that was not made
# The result of a call without an answer where a flow goes on, letter for letter the original's.
ORIGINAL_ERROR = msgspec.Raw(b'"[Request_Maker] - error."')


def request_body(
    items: Sequence[Reference], payload: msgspec.Raw, results: Sequence[msgspec.Raw], form: BodyForm
) -> bytes:
    """``{"payload": [item, …]}``, as JSON or as the original's Python text of it."""
    parts = [
        bytes(payload if isinstance(item, Payload) else results[item.number - 1]) for item in items
    ]
    body = b'{"payload": [' + b", ".join(parts) + b"]}"
    return _as_python(body) if form is BodyForm.PYTHON_REPR else body


def told_body(call: Call, terms: Terms, seen: Seen, form: BodyForm) -> bytes:
    """The body of a call that says more than the seed's language. Raises CannotEvaluate."""
    if terms.json is not None:
        return as_json(terms.json, seen)
    if terms.raw is not None:
        return (as_text(terms.raw, seen) or "").encode()
    body = b'{"payload": ' + as_json(ListOf(call.items), seen) + b"}"
    return _as_python(body) if form is BodyForm.PYTHON_REPR else body


def _as_python(body: bytes) -> bytes:
    return str(msgspec.json.decode(body, type=dict[str, Any])).encode()


def result_text(reply: Reply) -> msgspec.Raw:
    """The response text as a JSON string. It is UTF-8 unless the reply names a charset we read."""
    return msgspec.Raw(msgspec.json.encode(_decoded(reply)))


def _decoded(reply: Reply) -> str:
    return reply.body.decode(_codec(reply.header("content-type") or ""), "replace")


def _codec(kind: str) -> str:
    named = _CHARSET.search(kind) if ";" in kind else None
    return _BY_NAME.get(named[1].lower().replace("-", "_"), "utf_8") if named else "utf_8"
