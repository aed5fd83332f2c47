"""What steps send: bodies of calls and messages, replies, payloads, the list of a FOREACH.

Payloads and results are kept as JSON text, so a body is made by joining texts, without parsing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

import msgspec

from fractal_rm.domain.call import BodyForm
from fractal_rm.domain.evaluate import as_json, check_size, raw_bytes, raw_value
from fractal_rm.domain.evaluation_context import EvaluationContext
from fractal_rm.domain.expression import ListOf, Piece, Result
from fractal_rm.domain.flow import Call, CallOptions, Content, Undo
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.result import NULL, StepResult
from fractal_rm.domain.strict_json import BYTE_ORDER_MARK, check_depth, check_json
from fractal_rm.domain.value_budget import ValueBudget

SKIPPED = NULL  # the result of a call that its WHEN skipped
# The result of a call without a response under ERRORS continue: exactly the text of the original.
ORIGINAL_ERROR = msgspec.Raw(b'"[Request_Maker] - error."')


def request_body(
    items: Sequence[Piece],
    payload: msgspec.Raw,
    results: Mapping[int, StepResult],
    form: BodyForm,
) -> bytes:
    """The body of a call that the original's language can express: ``{"payload": [item, …]}``.

    It is JSON, or Python's ``str()`` of it as the original sends. The items must be whole payloads
    and results, none of them bytes: this is not checked.
    """
    parts = [results[item.number] if isinstance(item, Result) else payload for item in items]
    body = b'{"payload": [' + b", ".join(parts) + b"]}"
    return body if form.is_json else _as_python(body)


def call_body(call: Call, terms: CallOptions, context: EvaluationContext, form: BodyForm) -> bytes:
    """The body of any call: a template, RAW, or items. Raises CannotEvaluate."""
    if terms.json is not None:
        return _checked_size(as_json(terms.json, context))
    if terms.raw is not None:
        return _checked_size(raw_bytes(terms.raw, context))
    return _items_body(call.items, context, form)


def undo_body(undo: Undo, context: EvaluationContext, form: BodyForm) -> bytes:
    """The body of an UNDO. Raises CannotEvaluate."""
    return _items_body(undo.items, context, form)


def message_body(content: Content, context: EvaluationContext) -> bytes:
    """The message of a PUBLISH, made as the body of a POST. Raises CannotEvaluate."""
    if content.json is not None:
        return _checked_size(as_json(content.json, context))
    if content.raw is not None:
        return _checked_size(raw_bytes(content.raw, context))
    return _items_body(content.items, context, BodyForm.JSON)


def reply_of(content: Content, context: EvaluationContext) -> StepResult:
    """The reply of a REPLY: bytes or a text for RAW, else `content_json`. Raises CannotEvaluate."""
    if content.raw is None:
        return content_json(content, context)
    found = raw_value(content.raw, context) or ""
    if isinstance(found, bytes):
        return _checked_size(found)
    return msgspec.Raw(_checked_size(msgspec.json.encode(found)))


def content_json(content: Content, context: EvaluationContext) -> msgspec.Raw:
    """The payload of a RUN, or the reply of a REPLY without RAW, as JSON text.

    A template, the one item, or a list of several items; null without items. Raises CannotEvaluate.
    """
    if content.json is not None:
        return _bounded_json(as_json(content.json, context))
    if not content.items:
        return NULL
    one = content.items[0] if len(content.items) == 1 else ListOf(content.items)
    return _bounded_json(as_json(one, context))


def _bounded_json(body: bytes) -> msgspec.Raw:
    """Check JSON for another run or a sender: it has the same bounds as a trigger."""
    try:
        check_depth(_checked_size(body))
    except Malformed as error:
        raise CannotEvaluate(f"it is {error}") from None
    return msgspec.Raw(body)


def list_text(parts: Sequence[bytes]) -> msgspec.Raw:
    """The result of a FOREACH: a text that holds the JSON list of the elements' results.

    ``parts`` come from `list_element`. Raises CannotEvaluate.
    """
    text = b"[" + b", ".join(parts) + b"]"
    check_size(len(text))
    return msgspec.Raw(msgspec.json.encode(text.decode()))


def check_listable(result: StepResult, element: int) -> msgspec.Raw:
    """Return the result of an element. Raises CannotEvaluate if it is bytes."""
    if isinstance(result, msgspec.Raw):
        return result
    raise CannotEvaluate(f"the response for element {element} is not text but {len(result)} bytes,"
                         " and a list can contain only JSON and texts")  # fmt: skip


def list_element(result: msgspec.Raw, budget: ValueBudget) -> bytes:
    """A result as an element of a list: the JSON in its text, or the text if it is not JSON.

    Raises CannotEvaluate.
    """
    text = msgspec.json.decode(result, type=Union[str, None])
    if text is None:
        return bytes(result)
    budget.take_text(text)
    content = text.removeprefix(BYTE_ORDER_MARK).strip().encode()
    try:
        check_json(content)
    except Malformed:
        return bytes(result)
    return content


def _items_body(items: Sequence[Piece], context: EvaluationContext, form: BodyForm) -> bytes:
    body = _checked_size(b'{"payload": ' + as_json(ListOf(tuple(items)), context) + b"}")
    return body if form.is_json else _as_python(body)


def _checked_size(body: bytes) -> bytes:
    check_size(len(body))
    return body


def _as_python(body: bytes) -> bytes:
    try:
        return str(msgspec.json.decode(body, type=dict[str, Any])).encode()
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CannotEvaluate(f"it cannot be written as Python text: {error}") from None
