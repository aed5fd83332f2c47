"""What references, templates and conditions come to in a run. Plain functions: no I/O, no clock."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from operator import ge, gt, le, lt
from typing import Any, TypeGuard

import msgspec

from fractal_rm.domain.errors import CannotEvaluate
from fractal_rm.domain.expression import (
    AllOf,
    AnyOf,
    Base64,
    Compare,
    Comparison,
    Expression,
    Header,
    Item,
    ListOf,
    Literal,
    Not,
    ObjectOf,
    Payload,
    Reference,
    Result,
    Status,
    Value,
)
from fractal_rm.domain.result import NULL, StepResult

_ORDERS: dict[Comparison, Callable[[Any, Any], bool]] = {
    Comparison.LESS: lt,
    Comparison.AT_MOST: le,
    Comparison.GREATER: gt,
    Comparison.AT_LEAST: ge,
}
_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),  # before the numbers: Python counts it among them
    (int, "a number"),
    (float, "a number"),
    (str, "a text"),
    (list, "a list"),
    (dict, "an object"),
    (bytes, "bytes"),
    (object, "null"),
)


class Head(msgspec.Struct, frozen=True):
    """Status and headers of an answer, kept where the flow asks for them. Names in lower case."""

    status: int
    headers: Mapping[str, str] = {}


MARK = "\ufeff"  # byte order mark
MOST_BODY_BYTES = 8 * 1024 * 1024  # of what a template or items come to
_NO_ITEM: Any = object()


class Seen:
    """What a step can refer to: the payload, results by number, the heads that were kept.

    A text is read as JSON once, however many paths pick from it. A call that was skipped, or has
    no answer, has the result null.
    """

    def __init__(
        self, payload: msgspec.Raw, results: Mapping[int, StepResult], heads: Mapping[int, Head]
    ) -> None:
        self._payload = payload
        self._results = results
        self._heads = heads
        self._item: Any = _NO_ITEM
        self._read: dict[int, Any] = {}

    def with_answer(self, number: int, result: StepResult, head: Head) -> Seen:
        """The same after the call with this number has been answered."""
        results, heads = {**self._results, number: result}, {**self._heads, number: head}
        seen = Seen(self._payload, results, heads)
        seen._item = self._item
        return seen

    def with_item(self, item: Any) -> Seen:
        """The same for one element of a FOREACH; what was read as JSON is shared."""
        seen = Seen(self._payload, self._results, self._heads)
        seen._item, seen._read = item, self._read
        return seen

    def head(self, number: int) -> Head | None:
        """Of a call's answer; None for a call that had none."""
        return self._heads.get(number)

    def whole(self, ref: Reference) -> StepResult:
        """A whole payload, result or item: JSON text, or bytes. Raises CannotEvaluate."""
        if isinstance(ref, Payload):
            return self._payload
        if isinstance(ref, Item):
            return msgspec.Raw(_encoded(self.inside(ref)))
        return self._results.get(ref.number, NULL)

    def raw(self, ref: Reference) -> msgspec.Raw:
        """A whole payload, result or item as JSON text. Raises CannotEvaluate."""
        return json_of(ref, self.whole(ref))

    def data(self, ref: Reference) -> bytes | None:
        """A whole result that is bytes; None for anything else."""
        if not isinstance(ref, Result) or ref.path:
            return None
        found = self._results.get(ref.number, NULL)
        return None if isinstance(found, msgspec.Raw) else found

    def picked(self, ref: Reference) -> Any:
        """What a reference stands for. Raises CannotEvaluate."""
        if ref.path:
            return pick(ref.path, self.inside(ref), name_of(ref))
        return self.inside(ref) if isinstance(ref, Item) else msgspec.json.decode(self.raw(ref))

    def elements(self, ref: Reference) -> list[Any]:
        """The list that a FOREACH goes over; a text is read as JSON. Raises CannotEvaluate."""
        found = pick(ref.path, self.inside(ref), name_of(ref)) if ref.path else self.inside(ref)
        if not _is_list(found):
            raise CannotEvaluate(f"FOREACH goes over a list, and {name_of(ref)} is {_kind(found)}")
        return found

    def inside(self, ref: Reference) -> Any:
        """What a path picks from: the payload, the item, or what a result's text says as JSON."""
        if isinstance(ref, Item):
            if self._item is _NO_ITEM:
                raise CannotEvaluate("there is no item outside a FOREACH")
            return self._item
        number = 0 if isinstance(ref, Payload) else ref.number
        if number not in self._read:
            json = self.whole(ref)
            if not isinstance(json, msgspec.Raw):
                raise CannotEvaluate(f"result{number} is not JSON: it is {len(json)} bytes")
            whole = msgspec.json.decode(json)
            # The result of a RUN may be any JSON, and of a call that was skipped it is null.
            is_text = number and isinstance(whole, str)
            self._read[number] = _said_in(number, whole) if is_text else whole
        return self._read[number]


def _said_in(number: int, text: str) -> Any:
    try:
        return read_json(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CannotEvaluate(f"result{number} is not JSON: {error}") from None


def read_json(text: str) -> Any:
    """What a text says as JSON. A byte order mark before it is passed over (RFC 8259, 8.1).

    Raises msgspec.DecodeError, RecursionError.
    """
    return msgspec.json.decode(text.removeprefix(MARK))


def json_of(ref: Reference, result: StepResult) -> msgspec.Raw:
    """The JSON text of a whole reference. Raises CannotEvaluate where it is bytes."""
    if isinstance(result, msgspec.Raw):
        return result
    name = name_of(ref)
    raise CannotEvaluate(f"{name} is no text but {len(result)} bytes: RAW sends them as they are,"
                         f" and base64({name}) writes them as text")  # fmt: skip


def name_of(ref: Reference) -> str:
    """A reference in words."""
    if isinstance(ref, Result):
        name = f"result{ref.number}"
    else:
        name = "payload" if isinstance(ref, Payload) else "item"
    return f"{name}.{ref.path}" if ref.path else name


def pick(path: str, value: Any, name: str) -> Any:
    """What a JMESPath picks from a value. Raises CannotEvaluate."""
    try:
        return compiled(path).search(value)
    except Exception as error:  # noqa: BLE001 - foreign code: its own errors are not all it raises
        raise CannotEvaluate(f"{name}: {' '.join(str(error).split())}") from None


@lru_cache(maxsize=1024)
def compiled(path: str) -> Any:
    """A JMESPath, ready to search with. Raises where it is none."""
    # A node whose flows have no paths does without it: it stays small.
    import jmespath  # noqa: PLC0415

    return jmespath.compile(path)


def evaluate(value: Value, seen: Seen) -> Any:
    """What a value comes to, as JSON is read into Python. Raises CannotEvaluate."""
    if isinstance(value, (Payload, Result, Item)):
        return seen.picked(value)
    if isinstance(value, Base64):
        return _in_base64(value.of, seen)
    if isinstance(value, Literal):
        return value.value
    if isinstance(value, ListOf):
        return [evaluate(each, seen) for each in value.values]
    if isinstance(value, ObjectOf):
        return {key: evaluate(each, seen) for key, each in value.fields}
    return _asked(value, seen.head(value.number))


def _asked(value: Status | Header, head: Head | None) -> int | str | None:
    if head is None:
        return None
    return (head.status or None) if isinstance(value, Status) else head.headers.get(value.name)


def as_json(value: Value, seen: Seen) -> bytes:
    """What a value comes to, as JSON text. Raises CannotEvaluate, over MOST_BODY_BYTES too.

    A payload or a result that is sent whole is not read on the way.
    """
    if isinstance(value, (Payload, Result, Item)) and not value.path:
        return bytes(seen.raw(value))
    if isinstance(value, ListOf):
        return b"[" + _joined(as_json(each, seen) for each in value.values) + b"]"
    if isinstance(value, ObjectOf):
        fields = (msgspec.json.encode(k) + b": " + as_json(v, seen) for k, v in value.fields)
        return b"{" + _joined(fields) + b"}"
    return _encoded(evaluate(value, seen))


def _joined(parts: Iterable[bytes]) -> bytes:
    """Parts with commas between them, given up before they fill the memory."""
    taken: list[bytes] = []
    size = 0
    for part in parts:
        size += len(part)
        check_size(size)
        taken.append(part)
    return b", ".join(taken)


def check_size(size: int) -> None:
    """Raise CannotEvaluate where so many bytes are more than is sent or kept."""
    if size > MOST_BODY_BYTES:
        raise CannotEvaluate(f"it comes to more than {MOST_BODY_BYTES >> 20} MiB")


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CannotEvaluate(f"it cannot be written as JSON: {error}") from None


def as_it_is(ref: Reference, seen: Seen) -> bytes | str | None:
    """What ``RAW ref`` stands for: bytes, or as `as_text`. Raises CannotEvaluate."""
    data = seen.data(ref)
    return as_text(ref, seen) if data is None else data


def as_sent(ref: Reference, seen: Seen) -> bytes:
    """The bytes that ``RAW ref`` sends: a text as UTF-8, null as nothing. Raises CannotEvaluate."""
    return _bytes_of(as_it_is(ref, seen) or b"")


def _bytes_of(found: bytes | str) -> bytes:
    return found.encode() if isinstance(found, str) else found


def _in_base64(ref: Reference, seen: Seen) -> str | None:
    """The bytes that RAW would send, as a text; null as None. Raises CannotEvaluate."""
    found = as_it_is(ref, seen)
    if found is None:
        return None
    sent = _bytes_of(found)
    check_size(len(sent) // 3 * 4)
    return b2a_base64(sent, newline=False).decode()


def as_text(value: Value, seen: Seen) -> str | None:
    """A text as it is, anything else as JSON, null as None. Raises CannotEvaluate."""
    found = evaluate(value, seen)
    if found is None or isinstance(found, str):
        return found
    return as_json(Literal(found), seen).decode()


def holds(condition: Expression, seen: Seen) -> bool:
    """Whether a condition is true. Raises CannotEvaluate where it is neither true nor false."""
    if isinstance(condition, AllOf):
        return all(holds(part, seen) for part in condition.parts)
    if isinstance(condition, AnyOf):
        return any(holds(part, seen) for part in condition.parts)
    if isinstance(condition, Not):
        return not holds(condition.part, seen)
    found = _worked_out(condition, seen)
    if not isinstance(found, bool):
        raise CannotEvaluate(f"a condition is true or false, and this is {_kind(found)}")
    return found


def _worked_out(part: Expression, seen: Seen) -> Any:
    if isinstance(part, Compare):
        return _compared(part.how, _worked_out(part.left, seen), _worked_out(part.right, seen))
    if isinstance(part, (AllOf, AnyOf, Not)):
        return holds(part, seen)
    # Bytes are equal to nothing but the same bytes.
    data = seen.data(part) if isinstance(part, Result) else None
    return evaluate(part, seen) if data is None else data


def _compared(how: Comparison, left: Any, right: Any) -> bool:
    try:
        if how is Comparison.EQUAL:
            return _equal(left, right)
        if how is Comparison.UNEQUAL:
            return not _equal(left, right)
        if how is Comparison.IN:
            return _contains(right, left)
    except RecursionError:
        raise CannotEvaluate("it is nested too deeply to be compared") from None
    kind = _kind(left)
    if kind != _kind(right) or kind not in ("a number", "a text"):
        raise CannotEvaluate(f"{how.value} puts numbers or texts in order,"
                             f" not {kind} and {_kind(right)}")  # fmt: skip
    return _ORDERS[how](left, right)


def _equal(left: Any, right: Any) -> bool:
    """As JSON has it: 1 is 1.0, and true is not 1, however deep it stands."""
    if _is_list(left) and _is_list(right):
        return len(left) == len(right) and all(map(_equal, left, right))
    if _is_object(left) and _is_object(right):
        return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _contains(whole: Any, part: Any) -> bool:
    if _is_list(whole):
        return any(_equal(each, part) for each in whole)
    if isinstance(whole, str) and isinstance(part, str):
        return part in whole
    raise CannotEvaluate(f"in looks into a list, or for a text in a text,"
                         f" not for {_kind(part)} in {_kind(whole)}")  # fmt: skip


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _kind(value: object) -> str:
    return next(words for kind, words in _KINDS if isinstance(value, kind))
