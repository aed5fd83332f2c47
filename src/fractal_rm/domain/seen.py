"""What a step can refer to: the payload, the item, results and heads. Plain functions: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard

import msgspec

from fractal_rm.domain.expression import Item, Payload, Reference, Result
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.result import NULL, StepResult
from fractal_rm.domain.strict_json import read_json
from fractal_rm.domain.values import MOST_VALUES, Values

if TYPE_CHECKING:
    from fractal_rm.domain.jmes import Path

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
_NO_ITEM: Any = object()
MOST_OF_AN_ERROR = 400  # characters of what the library of JMESPath says


class Head(msgspec.Struct, frozen=True):
    """Status and headers of an answer, kept where the flow asks for them. Names in lower case."""

    status: int
    headers: Mapping[str, str] = {}


class Seen:
    """What a step can refer to: the payload, results by number, the heads that were kept.

    What is referred to is read once, however often, and a text once as JSON for all paths into it.
    A call that was skipped, or has no answer, has the result null. All that is asked of it looks at
    ``most_values`` at most.
    """

    def __init__(
        self,
        payload: msgspec.Raw,
        results: Mapping[int, StepResult],
        heads: Mapping[int, Head],
        most_values: int = MOST_VALUES,
    ) -> None:
        self._payload = payload
        self._most = most_values
        self._values = Values(most_values)
        self.compared = Values(most_values)
        self._results = results
        self._heads = heads
        self._item: Any = _NO_ITEM
        self._wholes: dict[int, Any] = {}  # by number, 0 for the payload
        self._read: dict[int, Any] = {}

    def with_answer(self, number: int, result: StepResult, head: Head) -> Seen:
        """The same after the call with this number has been answered."""
        results, heads = {**self._results, number: result}, {**self._heads, number: head}
        seen = Seen(self._payload, results, heads, self._most)
        seen._item = self._item
        return seen

    def with_item(self, item: Any) -> Seen:
        """The same for one element of a FOREACH; what was read as JSON is shared."""
        seen = Seen(self._payload, self._results, self._heads, self._most)
        seen._item, seen._wholes, seen._read = item, self._wholes, self._read
        return seen

    def head(self, number: int) -> Head | None:
        """Of a call's answer; None for a call that had none."""
        return self._heads.get(number)

    def whole(self, ref: Reference) -> StepResult:
        """A whole payload, result or item: JSON text, or bytes. Raises CannotEvaluate."""
        if isinstance(ref, Payload):
            return self._payload
        if isinstance(ref, Item):
            return msgspec.Raw(encoded(self.inside(ref)))
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
            return pick(ref.path, self.inside(ref), name_of(ref), self._values)
        return self.inside(ref) if isinstance(ref, Item) else self._whole(ref)

    def elements(self, ref: Reference) -> list[Any]:
        """The list that a FOREACH goes over; a text is read as JSON. Raises CannotEvaluate."""
        found = (
            pick(ref.path, self.inside(ref), name_of(ref), self._values)
            if ref.path
            else self.inside(ref)
        )
        if not is_list(found):
            kind = kind_of(found)
            raise CannotEvaluate(f"FOREACH goes over a list, and {name_of(ref)} is {kind}")
        return found

    def inside(self, ref: Reference) -> Any:
        """What a path picks from: the payload, the item, or what a result's text says as JSON."""
        if isinstance(ref, Item):
            if self._item is _NO_ITEM:
                raise CannotEvaluate("there is no item outside a FOREACH")
            return self._item
        number = _number_of(ref)
        if number not in self._read:
            json = self.whole(ref)
            if not isinstance(json, msgspec.Raw):
                raise CannotEvaluate(f"result{number} is not JSON: it is {len(json)} bytes")
            whole = self._whole(ref)
            # The result of a RUN may be any JSON, and of a call that was skipped it is null.
            is_text = number and isinstance(whole, str)
            self._read[number] = _said_in(number, whole, self._values) if is_text else whole
        return self._read[number]

    def _whole(self, ref: Payload | Result) -> Any:
        """What a whole payload or result is, a text as a text. Raises CannotEvaluate."""
        number = _number_of(ref)
        if number not in self._wholes:
            self._wholes[number] = decoded(self.raw(ref), name_of(ref), self._values)
        return self._wholes[number]


def _number_of(ref: Payload | Result) -> int:
    return 0 if isinstance(ref, Payload) else ref.number


def _said_in(number: int, text: str, values: Values) -> Any:
    """What a component has answered, read as strictly as what a sender sends."""
    values.take_text(text)
    try:
        return read_json(text.encode())
    except Malformed as error:
        raise CannotEvaluate(f"result{number} is not JSON: {error}") from None


def json_of(ref: Reference, result: StepResult) -> msgspec.Raw:
    """The JSON text of a whole reference. Raises CannotEvaluate where it is bytes."""
    if isinstance(result, msgspec.Raw):
        return result
    name = name_of(ref)
    raise CannotEvaluate(f"{name} is no text but {len(result)} bytes: RAW sends them as they are,"
                         f" and base64({name}) writes them as text")  # fmt: skip


def decoded(raw: msgspec.Raw, name: str, values: Values) -> Any:
    """What a payload or a result is: what an older release took need not be readable to this one.

    Raises CannotEvaluate.
    """
    text = bytes(raw)
    if not text.startswith(b'"'):  # one value, however long
        values.take_text(text.decode())
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CannotEvaluate(f"{name} cannot be read: {error}") from None


def name_of(ref: Reference) -> str:
    """A reference in words."""
    if isinstance(ref, Result):
        name = f"result{ref.number}"
    else:
        name = "payload" if isinstance(ref, Payload) else "item"
    return f"{name}.{ref.path}" if ref.path else name


def pick(path: str, value: Any, name: str, values: Values) -> Any:
    """What a JMESPath picks from a value. Raises CannotEvaluate."""
    try:
        return compiled(path).pick(value, values)
    except Exception as error:  # noqa: BLE001 - foreign code: its own errors are not all it raises
        raise CannotEvaluate(f"{name}: {_shortened(str(error))}") from None


def _shortened(said: str) -> str:
    """On one line, without most of a long value that the library repeats in what it says."""
    half = MOST_OF_AN_ERROR // 2
    if len(said) > MOST_OF_AN_ERROR:
        said = f"{said[:half]} … {said[-half:]}"
    return " ".join(said.split())


@lru_cache(maxsize=1024)
def compiled(path: str) -> Path:
    """A JMESPath, ready to pick with. Raises where it is none."""
    # A node whose flows have no paths does without it: it stays small.
    from fractal_rm.domain.jmes import Path  # noqa: PLC0415

    return Path(path)


def encoded(value: Any, *, in_order: bool = False) -> bytes:
    """A value as JSON text; ``in_order``: keys are sorted. Raises CannotEvaluate."""
    try:
        return msgspec.json.encode(value, order="sorted" if in_order else None)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CannotEvaluate(f"it cannot be written as JSON: {error}") from None


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Whether a value is a list, as a type checker understands it."""
    return isinstance(value, list)


def kind_of(value: object) -> str:
    """What a value is, in words."""
    return next(words for kind, words in _KINDS if isinstance(value, kind))
