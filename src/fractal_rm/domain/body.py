"""Makes what steps send: bodies of calls and messages, replies, payloads, lists of a FOREACH.

Payloads and results are stored as JSON text, so most bodies are made by joining texts that need not
be parsed.
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

SKIPPED = NULL  # the result of a call whose WHEN was false
# With ERRORS continue, this is the result of a call without a response, as in the original.
ORIGINAL_ERROR = msgspec.Raw(b'"[Request_Maker] - error."')


def request_body(
    items: Sequence[Piece],
    payload: msgspec.Raw,
    results: Mapping[int, StepResult],
    form: BodyForm,
) -> bytes:
    """The body of a call without options, as in the original: ``{"payload": [item, …]}``.

    The body is JSON, or Python's ``str()`` of the decoded JSON, which the original sends. Each item
    must be the whole payload, or a whole result that is not bytes. This is not checked.
    """
    parts = [results[item.number] if isinstance(item, Result) else payload for item in items]
    body = b'{"payload": [' + b", ".join(parts) + b"]}"
    return body if form.is_json else _as_python(body)


def call_body(
    call: Call, options: CallOptions, context: EvaluationContext, form: BodyForm
) -> bytes:
    """The body of a call, from its template, its RAW or its items. Raises CannotEvaluate."""
    if options.json is not None:
        return _checked_size(as_json(options.json, context))
    if options.raw is not None:
        return _checked_size(raw_bytes(options.raw, context))
    return _items_body(call.items, context, form)


def undo_body(undo: Undo, context: EvaluationContext, form: BodyForm) -> bytes:
    """The body of an UNDO. Raises CannotEvaluate."""
    return _items_body(undo.items, context, form)


def message_body(content: Content, context: EvaluationContext) -> bytes:
    """The message of a PUBLISH, made in the same way as a body of a POST. Raises CannotEvaluate."""
    if content.json is not None:
        return _checked_size(as_json(content.json, context))
    if content.raw is not None:
        return _checked_size(raw_bytes(content.raw, context))
    return _items_body(content.items, context, BodyForm.JSON)


def reply_of(content: Content, context: EvaluationContext) -> StepResult:
    """The content of a REPLY. With RAW, it is bytes or a JSON string; otherwise see `content_json`.

    Raises CannotEvaluate.
    """
    if content.raw is None:
        return content_json(content, context)
    value = raw_value(content.raw, context) or ""
    if isinstance(value, bytes):
        return _checked_size(value)
    return msgspec.Raw(_checked_size(msgspec.json.encode(value)))


def content_json(content: Content, context: EvaluationContext) -> msgspec.Raw:
    """The payload of a RUN, or the content of a REPLY without RAW, as JSON text.

    It is the template, the only item, a list of several items, or null if there are no items.
    Raises CannotEvaluate.
    """
    if content.json is not None:
        return _bounded_json(as_json(content.json, context))
    if not content.items:
        return NULL
    value = content.items[0] if len(content.items) == 1 else ListOf(content.items)
    return _bounded_json(as_json(value, context))


def _bounded_json(body: bytes) -> msgspec.Raw:
    """Check the size and the depth of JSON text. Raises CannotEvaluate."""
    try:
        check_depth(_checked_size(body))
    except Malformed as error:
        raise CannotEvaluate(f"the value is {error}") from None
    return msgspec.Raw(body)


def list_text(parts: Sequence[bytes]) -> msgspec.Raw:
    """The result of a FOREACH: a JSON string that contains a JSON list.

    ``parts`` are the elements of the list, as `list_element` returns them. Raises CannotEvaluate.
    """
    text = b"[" + b", ".join(parts) + b"]"
    check_size(len(text))
    return msgspec.Raw(msgspec.json.encode(text.decode()))


def check_listable(result: StepResult, element: int) -> msgspec.Raw:
    """Return the result of an element of a FOREACH. Raises CannotEvaluate if it is bytes."""
    if isinstance(result, msgspec.Raw):
        return result
    raise CannotEvaluate(f"the response for element {element} is not text but {len(result)} bytes,"
                         " and a list can contain only JSON and texts")  # fmt: skip


def list_element(result: msgspec.Raw, budget: ValueBudget) -> bytes:
    """Return the result of an element as JSON for `list_text`.

    If the text of the result is JSON, return the text; otherwise return a JSON string with the
    text. Raises CannotEvaluate.
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
        raise CannotEvaluate(f"the body cannot be written as Python text: {error}") from None
