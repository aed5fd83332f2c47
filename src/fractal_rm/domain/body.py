"""The bytes that a call sends, and the text that comes back. Everything stays JSON text.

A payload and a result are carried as the JSON that they will be in the next body, so making a
body is joining, and nothing is parsed on the way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from encodings.aliases import aliases
from functools import lru_cache
from typing import Any, Union

import msgspec

from fractal_rm.domain.call import BodyForm, Reply
from fractal_rm.domain.errors import CannotEvaluate, Malformed
from fractal_rm.domain.evaluate import NULL, Seen, as_json, as_text, check_size
from fractal_rm.domain.expression import ListOf, Reference, Result
from fractal_rm.domain.flow import Call, Content, Terms, Undo
from fractal_rm.domain.strict_json import check_depth, check_json
from fractal_rm.domain.values import Values

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

SKIPPED = NULL  # the result of a call that was not made
# The result of a call without an answer where a flow goes on, letter for letter the original's.
ORIGINAL_ERROR = msgspec.Raw(b'"[Request_Maker] - error."')


def request_body(
    items: Sequence[Reference],
    payload: msgspec.Raw,
    results: Mapping[int, msgspec.Raw],
    form: BodyForm,
) -> bytes:
    """``{"payload": [item, …]}``, as JSON or as the original's Python text of it."""
    parts = [results[item.number] if isinstance(item, Result) else payload for item in items]
    body = b'{"payload": [' + b", ".join(parts) + b"]}"
    return body if form.is_json else _as_python(body)


def told_body(call: Call, terms: Terms, seen: Seen, form: BodyForm) -> bytes:
    """The body of a call that says more than the seed's language. Raises CannotEvaluate."""
    if terms.json is not None:
        return _checked(as_json(terms.json, seen))
    if terms.raw is not None:
        return _checked((as_text(terms.raw, seen) or "").encode())
    return _items_body(call.items, seen, form)


def undo_body(undo: Undo, seen: Seen, form: BodyForm) -> bytes:
    """The body of an UNDO. Raises CannotEvaluate."""
    return _items_body(undo.items, seen, form)


def message_body(content: Content, seen: Seen) -> bytes:
    """What a PUBLISH sends: as the body of a POST. Raises CannotEvaluate."""
    if content.json is not None:
        return _checked(as_json(content.json, seen))
    if content.raw is not None:
        return _checked((as_text(content.raw, seen) or "").encode())
    return _items_body(content.items, seen, BodyForm.JSON)


def content_json(content: Content, seen: Seen) -> msgspec.Raw:
    """What a REPLY says, or the payload of a RUN: one JSON text. Raises CannotEvaluate.

    A template as it is, one item itself, several as a list, none as null, a RAW as a text.
    """
    if content.json is not None:
        return _handed_on(as_json(content.json, seen))
    if content.raw is not None:
        return msgspec.Raw(_checked(msgspec.json.encode(as_text(content.raw, seen) or "")))
    if not content.items:
        return NULL
    one = content.items[0] if len(content.items) == 1 else ListOf(content.items)
    return _handed_on(as_json(one, seen))


def _handed_on(body: bytes) -> msgspec.Raw:
    """JSON that other runs and senders read: it keeps the bounds of what comes from a sender."""
    try:
        check_depth(_checked(body))
    except Malformed as error:
        raise CannotEvaluate(f"it is {error}") from None
    return msgspec.Raw(body)


def list_text(parts: Sequence[bytes]) -> msgspec.Raw:
    """The result of a FOREACH: the list of its elements' results, as a text that is JSON.

    ``parts`` are as `in_list`. Raises CannotEvaluate.
    """
    text = b"[" + b", ".join(parts) + b"]"
    check_size(len(text))
    return msgspec.Raw(msgspec.json.encode(text.decode()))


def in_list(result: msgspec.Raw, values: Values) -> bytes:
    """A result in a list: what its text says as JSON, or the text where it is none.

    Raises CannotEvaluate.
    """
    text = msgspec.json.decode(result, type=Union[str, None])
    if text is None:
        return bytes(result)
    values.take_text(text)
    said = text.strip().encode()
    try:
        check_json(said)
    except Malformed:
        return bytes(result)
    return said


def _items_body(items: Sequence[Reference], seen: Seen, form: BodyForm) -> bytes:
    body = _checked(b'{"payload": ' + as_json(ListOf(tuple(items)), seen) + b"}")
    return body if form.is_json else _as_python(body)


def _checked(body: bytes) -> bytes:
    check_size(len(body))
    return body


def _as_python(body: bytes) -> bytes:
    try:
        return str(msgspec.json.decode(body, type=dict[str, Any])).encode()
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CannotEvaluate(f"it cannot be written as Python text: {error}") from None


def result_text(reply: Reply) -> msgspec.Raw:
    """The response text as a JSON string. It is UTF-8 unless the reply names a charset we read."""
    return msgspec.Raw(msgspec.json.encode(reply.body.decode(_codec(reply.head), "replace")))


@lru_cache(maxsize=32)
def _codec(head: bytes) -> str:
    """What a head says of the text under it: a server sends the same one again and again."""
    if b"charset" not in head.lower():  # hardly one says it
        return "utf_8"
    kind = Reply(0, head, b"").header("content-type") or ""
    named = _CHARSET.search(kind) if ";" in kind else None
    return _BY_NAME.get(named[1].lower().replace("-", "_"), "utf_8") if named else "utf_8"
