"""The values that expressions of a step can refer to: payload, item, results, response heads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard

import msgspec

from fractal_rm.domain.expression import Item, Payload, Reference, Result
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.late_import import late_import
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.result import NULL, StepResult
from fractal_rm.domain.strict_json import read_json
from fractal_rm.domain.value_budget import MAX_VALUES, ValueBudget

if TYPE_CHECKING:
    from fractal_rm.domain.value_path import ValuePath

_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),  # must precede int, because bool is a subclass of int
    (int, "a number"),
    (float, "a number"),
    (str, "a text"),
    (list, "a list"),
    (dict, "an object"),
    (bytes, "bytes"),
    (object, "null"),
)
_NO_ITEM: Any = object()
MAX_ERROR_CHARACTERS = 400  # a longer message of the JMESPath library is shortened


class ResponseHead(msgspec.Struct, frozen=True):
    """The status of a response, and the headers that the flow refers to, with lower-case names."""

    status: int
    headers: Mapping[str, str] = {}


class EvaluationContext:
    """The payload, the results and the response heads that the expressions of one step can use.

    The keys of ``results`` and ``heads`` are the numbers of steps. Each value is parsed once, even
    if the step refers to it several times. A call that was skipped or got no response has the
    result null. All evaluations of the step together may read ``max_values`` values, and all its
    comparisons may compare the same number.
    """

    def __init__(
        self,
        payload: msgspec.Raw,
        results: Mapping[int, StepResult],
        heads: Mapping[int, ResponseHead],
        max_values: int = MAX_VALUES,
    ) -> None:
        self._payload = payload
        self._max_values = max_values
        self._budget = ValueBudget(max_values)
        self.comparison_budget = ValueBudget(max_values)
        self._results = results
        self._heads = heads
        self._item: Any = _NO_ITEM
        # The decoded value of each result, by its number. The payload has the number 0.
        self._decoded: dict[int, Any] = {}
        # Like `_decoded`, but the texts of results are parsed as JSON.
        self._parsed: dict[int, Any] = {}

    def with_response(
        self, number: int, result: StepResult, head: ResponseHead
    ) -> EvaluationContext:
        """Return a context that also has the response to the call with this number."""
        results, heads = {**self._results, number: result}, {**self._heads, number: head}
        context = EvaluationContext(self._payload, results, heads, self._max_values)
        context._item = self._item
        return context

    def with_item(self, item: Any) -> EvaluationContext:
        """Return a context for one element of a FOREACH. It shares the values parsed so far."""
        context = EvaluationContext(self._payload, self._results, self._heads, self._max_values)
        context._item, context._decoded, context._parsed = item, self._decoded, self._parsed
        return context

    def head(self, number: int) -> ResponseHead | None:
        """The head of the response to the call with this number, or None."""
        return self._heads.get(number)

    def json_of(self, ref: Reference) -> msgspec.Raw:
        """A whole payload, result or item as JSON text. Raises CannotEvaluate."""
        if isinstance(ref, Payload):
            return self._payload
        if isinstance(ref, Item):
            return msgspec.Raw(encode_value(self._parse(ref)))
        result = self._results.get(ref.number, NULL)
        if isinstance(result, msgspec.Raw):
            return result
        name = name_of(ref)
        raise CannotEvaluate(f"{name} is not text but {len(result)} bytes: RAW sends them"
                             f" unchanged, and base64({name}) encodes them as text")  # fmt: skip

    def bytes_of(self, ref: Reference) -> bytes | None:
        """The bytes of a whole result; None if ``ref`` is anything but a result of bytes."""
        if not isinstance(ref, Result) or ref.path:
            return None
        result = self._results.get(ref.number, NULL)
        return None if isinstance(result, msgspec.Raw) else result

    def value_of(self, ref: Reference) -> Any:
        """The value of a reference. Raises CannotEvaluate."""
        if ref.path:
            return pick(ref.path, self._parse(ref), name_of(ref), self._budget)
        return self._parse(ref) if isinstance(ref, Item) else self._decode(ref)

    def elements(self, ref: Reference) -> list[Any]:
        """The list for a FOREACH. The text of a result is parsed as JSON. Raises CannotEvaluate."""
        value = self._parse(ref)
        if ref.path:
            value = pick(ref.path, value, name_of(ref), self._budget)
        if not is_list(value):
            raise CannotEvaluate(f"FOREACH needs a list, and {name_of(ref)} is {kind_of(value)}")
        return value

    def _parse(self, ref: Reference) -> Any:
        """The value to which the path of ``ref`` applies. The text of a result is parsed as JSON.

        Raises CannotEvaluate.
        """
        if isinstance(ref, Item):
            if self._item is _NO_ITEM:
                raise CannotEvaluate("there is no item outside a FOREACH")
            return self._item
        number = _number_of(ref)
        if number not in self._parsed:
            data = self.bytes_of(Result(number)) if number else None
            if data is not None:
                raise CannotEvaluate(f"result{number} is not JSON: it is {len(data)} bytes")
            value = self._decode(ref)
            # Not every result is text: that of a RUN may be any JSON, that of a skipped call null.
            is_text = number and isinstance(value, str)
            self._parsed[number] = _parse_text(number, value, self._budget) if is_text else value
        return self._parsed[number]

    def _decode(self, ref: Payload | Result) -> Any:
        """The value of a whole payload or result. A text remains a text. Raises CannotEvaluate."""
        number = _number_of(ref)
        if number not in self._decoded:
            self._decoded[number] = decode_value(self.json_of(ref), name_of(ref), self._budget)
        return self._decoded[number]


def _number_of(ref: Payload | Result) -> int:
    return 0 if isinstance(ref, Payload) else ref.number


def _parse_text(number: int, text: str, budget: ValueBudget) -> Any:
    """Parse the text of a result with the strict JSON decoder. Raises CannotEvaluate."""
    budget.take_text(text)
    try:
        return read_json(text.encode())
    except Malformed as error:
        raise CannotEvaluate(f"result{number} is not JSON: {error}") from None


def decode_value(raw: msgspec.Raw, name: str, budget: ValueBudget) -> Any:
    """Decode the JSON text of a payload or a result.

    Raises CannotEvaluate, for example for JSON that only an older release accepted.
    """
    text = bytes(raw)
    if not text.startswith(b'"'):  # a string is only one value, so it needs no budget
        budget.take_text(text.decode())
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CannotEvaluate(f"{name} cannot be read: {error}") from None


def name_of(ref: Reference) -> str:
    """A reference in the form that flows use, such as ``result2.status``."""
    if isinstance(ref, Result):
        name = f"result{ref.number}"
    else:
        name = "payload" if isinstance(ref, Payload) else "item"
    return f"{name}.{ref.path}" if ref.path else name


def pick(path: str, value: Any, name: str, budget: ValueBudget) -> Any:
    """Apply a JMESPath to a value. Raises CannotEvaluate."""
    try:
        return compile_path(path).pick(value, budget)
    except Exception as error:  # noqa: BLE001 - the library raises more than its own errors
        raise CannotEvaluate(f"{name}: {_shortened(_without_value(error))}") from None


def _without_value(error: Exception) -> str:
    """The message of an error of the JMESPath library, without the value that a function refused.

    Reasons are in logs and lists, so they do not quote payloads and results.
    """
    message = str(error)
    value = getattr(error, "current_value", None)
    return (
        message
        if value is None
        else message.replace(f"invalid type for value: {value}", "invalid type")
    )


def _shortened(message: str) -> str:
    """Put a message on one line. If it is long, leave out the middle."""
    half = MAX_ERROR_CHARACTERS // 2
    if len(message) > MAX_ERROR_CHARACTERS:
        message = f"{message[:half]} … {message[-half:]}"
    return " ".join(message.split())


@lru_cache(maxsize=1024)
def compile_path(path: str) -> ValuePath:
    """Compile a JMESPath. Raises an error of the library, or NotJson, if it is not valid.

    The first call imports the library.
    """
    return late_import("fractal_rm.domain.value_path").ValuePath(path)


def encode_value(value: Any, *, sort_keys: bool = False) -> bytes:
    """Encode a value as JSON text. Raises CannotEvaluate."""
    try:
        return msgspec.json.encode(value, order="sorted" if sort_keys else None)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CannotEvaluate(f"the value cannot be written as JSON: {error}") from None


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Whether a value is a list. Type checkers infer ``list[Any]`` from it."""
    return isinstance(value, list)


def kind_of(value: object) -> str:
    """The JSON type of a value in words, for messages."""
    return next(words for kind, words in _KINDS if isinstance(value, kind))
