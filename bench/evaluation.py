"""Measures how long one evaluation blocks the event loop: `python -m bench.evaluation`.

Each evaluation is as large as the limits of the language allow. Each printed line has the median
and the maximum of nine rounds, in milliseconds of CPU time. During an evaluation, a
node does nothing else, so none of the times should be far above 50 ms.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from statistics import median
from time import thread_time

import msgspec

from fractal_rm.domain.body import list_text, request_body
from fractal_rm.domain.call import BodyForm
from fractal_rm.domain.condition import is_true
from fractal_rm.domain.evaluate import MAX_BODY_BYTES, as_json, as_text
from fractal_rm.domain.evaluation_context import EvaluationContext
from fractal_rm.domain.expression import Compare, Comparison, Literal, ObjectOf, Payload, Result
from fractal_rm.domain.strict_json import check_json
from fractal_rm.domain.value_budget import MAX_VALUES

ROUNDS = 9
ROW = {"id": 1, "label": "person", "score": 0.5, "box": [1, 2, 3, 4]}


def result_with(rows: int) -> msgspec.Raw:
    """The result of a call whose response is a JSON array of ``rows`` objects."""
    text = json.dumps([{**ROW, "id": n, "score": n % 100 / 100} for n in range(rows)])
    return msgspec.Raw(msgspec.json.encode(text))


def context_of(result: msgspec.Raw) -> EvaluationContext:
    """A context that has ``result`` as the payload and as result 1. No value is decoded yet."""
    return EvaluationContext(result, {1: result}, {})


def evaluations() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each evaluation to measure: its name, and a function that evaluates it."""
    # One evaluation may read MAX_VALUES values. A row counts as eleven values. A filter reads six
    # more values for each row. Ten rows are subtracted as a margin.
    path_rows, filter_rows = MAX_VALUES // 11 - 10, MAX_VALUES // 17 - 10
    path_result, filter_result = result_with(path_rows), result_with(filter_rows)
    is_first = Compare(Comparison.EQUAL, Result(1, "[0].id"), Literal(0))
    yield f"a path into {path_rows} rows", lambda: is_true(is_first, context_of(path_result))
    matches = ObjectOf((("found", Result(1, "[?score > `0.9`].id")),))
    yield f"a filter over {filter_rows} rows", lambda: as_json(matches, context_of(filter_result))
    text = "x" * (MAX_BODY_BYTES - 100)
    raw = msgspec.Raw(msgspec.json.encode(text))
    yield (
        "8 MiB of text, in a JSON body",
        lambda: request_body((Result(1),), raw, {1: raw}, BodyForm.JSON),
    )
    yield (
        "8 MiB of text, in a body in Python's notation",
        lambda: request_body((Result(1),), raw, {1: raw}, BodyForm.PYTHON_REPR),
    )
    yield "8 MiB of text, in a RAW body", lambda: as_text(Payload(), context_of(raw))
    part = json.dumps(["x" * 100] * 800).encode()
    yield "a JSON array of 100 elements, 8 MiB", lambda: list_text([part] * 100)
    trigger = json.dumps([1] * 87_000).encode()
    yield f"check of a trigger with {len(trigger)} bytes of numbers", lambda: check_json(trigger)


def main() -> None:
    """Measure each evaluation, and print a line for it."""
    for name, evaluate in evaluations():
        durations_ms = []
        for _ in range(ROUNDS):
            start_s = thread_time()
            evaluate()
            durations_ms.append((thread_time() - start_s) * 1000)
        print(f"{name:50} {median(durations_ms):7.1f} {max(durations_ms):7.1f}")


if __name__ == "__main__":
    main()
