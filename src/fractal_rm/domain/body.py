"""The bytes that a call sends, and the list that a FOREACH comes to. Texts stay JSON text.

A payload and a result are carried as the JSON that they will be in the next body, so making a
body is joining, and nothing is parsed on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

import msgspec

from fractal_rm.domain.call import BodyForm
from fractal_rm.domain.evaluate import as_it_is, as_json, as_sent, check_size
from fractal_rm.domain.expression import ListOf, Piece, Result
from fractal_rm.domain.flow import Call, Content, Terms, Undo
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.result import NULL, StepResult
from fractal_rm.domain.seen import Seen
from fractal_rm.domain.strict_json import MARK, check_depth, check_json
from fractal_rm.domain.values import Values

SKIPPED = NULL  # the result of a call that was not made
# The result of a call without an answer where a flow goes on, letter for letter the original's.
ORIGINAL_ERROR = msgspec.Raw(b'"[Request_Maker] - error."')


def request_body(
    items: Sequence[Piece],
    payload: msgspec.Raw,
    results: Mapping[int, StepResult],
    form: BodyForm,
) -> bytes:
    """``{"payload": [item, …]}``, as JSON or as the original's Python text of it.

    The items are whole payloads and results, none of which is bytes: nothing is checked here.
    """
    parts = [results[item.number] if isinstance(item, Result) else payload for item in items]
    body = b'{"payload": [' + b", ".join(parts) + b"]}"
    return body if form.is_json else _as_python(body)


def told_body(call: Call, terms: Terms, seen: Seen, form: BodyForm) -> bytes:
    """The body of a call that says more than the seed's language. Raises CannotEvaluate."""
    if terms.json is not None:
        return _checked(as_json(terms.json, seen))
    if terms.raw is not None:
        return _checked(as_sent(terms.raw, seen))
    return _items_body(call.items, seen, form)


def undo_body(undo: Undo, seen: Seen, form: BodyForm) -> bytes:
    """The body of an UNDO. Raises CannotEvaluate."""
    return _items_body(undo.items, seen, form)


def message_body(content: Content, seen: Seen) -> bytes:
    """What a PUBLISH sends: as the body of a POST. Raises CannotEvaluate."""
    if content.json is not None:
        return _checked(as_json(content.json, seen))
    if content.raw is not None:
        return _checked(as_sent(content.raw, seen))
    return _items_body(content.items, seen, BodyForm.JSON)


def reply_of(content: Content, seen: Seen) -> StepResult:
    """What a REPLY says: as `content_json`, or a RAW as bytes or a text. Raises CannotEvaluate."""
    if content.raw is None:
        return content_json(content, seen)
    found = as_it_is(content.raw, seen) or ""
    if isinstance(found, bytes):
        return _checked(found)
    return msgspec.Raw(_checked(msgspec.json.encode(found)))


def content_json(content: Content, seen: Seen) -> msgspec.Raw:
    """The payload of a RUN, or what a REPLY says without RAW: one JSON text.

    A template as it is, one item itself, several as a list, none as null. Raises CannotEvaluate.
    """
    if content.json is not None:
        return _handed_on(as_json(content.json, seen))
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


def check_listable(result: StepResult, element: int) -> msgspec.Raw:
    """The result for one element. Raises CannotEvaluate where a list cannot hold it."""
    if isinstance(result, msgspec.Raw):
        return result
    raise CannotEvaluate(f"the answer for element {element} is no text but {len(result)} bytes,"
                         " and a list holds JSON and texts")  # fmt: skip


def in_list(result: msgspec.Raw, values: Values) -> bytes:
    """A result in a list: what its text says as JSON, or the text where it is none.

    Raises CannotEvaluate.
    """
    text = msgspec.json.decode(result, type=Union[str, None])
    if text is None:
        return bytes(result)
    values.take_text(text)
    said = text.removeprefix(MARK).strip().encode()
    try:
        check_json(said)
    except Malformed:
        return bytes(result)
    return said


def _items_body(items: Sequence[Piece], seen: Seen, form: BodyForm) -> bytes:
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
