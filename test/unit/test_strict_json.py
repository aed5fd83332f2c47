"""JSON that the strict decoder accepts can be evaluated, sent, stored and displayed."""

import json
import math

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fractal_rm.adapters.sqlite.format.page_chain import (
    chain_start,
    encode_page,
    page_checksum,
    verified_facts,
)
from fractal_rm.cli.runs_show import describe_fact
from fractal_rm.domain.admission import latest_key
from fractal_rm.domain.body import content_json, list_element, list_text, request_body
from fractal_rm.domain.call import BodyForm
from fractal_rm.domain.condition import is_true
from fractal_rm.domain.evaluate import as_json, as_text, evaluate
from fractal_rm.domain.evaluation_context import EvaluationContext
from fractal_rm.domain.expression import (
    Compare,
    Comparison,
    Header,
    Literal,
    ObjectOf,
    Payload,
    Result,
    Status,
)  # fmt: skip
from fractal_rm.domain.facts import Accepted, Finished
from fractal_rm.domain.flow import Content
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import MAX_DEPTH, check_json, read_json
from fractal_rm.domain.value_budget import ValueBudget

# Values that JSON allows, but that some decoders refuse.
NUMBERS = [
    "0", "-0", "-0.0", "0e999999999", "1e-999999999", "1E+2", "1e308", "-1e308", "1e300",
    "1.7976931348623157e308", "9" * 308, "12345678901234567890123", "0." + "1" * 5000,
    "9007199254740993", "18446744073709551616",
]  # fmt: skip
TOO_LARGE_NUMBERS = ["1e309", "-1e400", "1e999999999", "9" * 310, "9" * 5000, "1" * 200 + "e200"]
TEXTS = ['"a"', '"\\u0000"', '"\\ud83d\\ude00"', '"\\u2028"', '""', '"1e400"', '"NaN"', '"[{"']
PATHS = [
    "@", "id", "[0]", "[*]", "*", "to_number(@)", "to_number(id)", "sum(@)", "avg(@)", "sum(*)",
    "ceil(id)", "floor(@)", "abs(@)", "to_string(@)", "sort(@)", "max(@)", "length(@)", "keys(@)",
    "[?@ > `1`]", "[?id == `1.0`]", "{a: id, b: @}", "[@, @]|[@, @]|[@, @]", "join('', @)", "&id",
    "merge(@, {a: `1`})", "[].{a: @}", "reverse(@)", "sort_by(@, &id)", "map(&id, @)", "type(@)",
]  # fmt: skip

scalars = st.sampled_from([*NUMBERS, *TEXTS, "true", "false", "null"])
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda parts: f"[{','.join(parts)}]")
        | st.dictionaries(st.sampled_from(["id", "a", "b"]), inner, max_size=3).map(
            lambda fields: "{" + ",".join(f'"{key}": {text}' for key, text in fields.items()) + "}"
        )
    ),
    max_leaves=12,
)


def enclosed(text: str, brackets: list[tuple[str, str]]) -> str:
    """The text in each of these pairs of brackets. The last pair is the outermost."""
    for opening, closing in brackets:
        text = opening + text + closing
    return text


deep = st.builds(
    enclosed,
    scalars,
    st.lists(st.sampled_from([("[", "]"), ('{"id":', "}")]), min_size=1, max_size=MAX_DEPTH),
)


@pytest.mark.parametrize("number", TOO_LARGE_NUMBERS)
@pytest.mark.parametrize("around", ["%s", '{"id": %s}', "[1, [%s]]"])
def test_a_number_that_is_too_large_for_a_double_is_refused(number, around):
    with pytest.raises(Malformed, match="number that is too large"):
        check_json((around % number).encode())


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_in_the_range_of_a_double_is_accepted(number):
    assert math.isfinite(read_json(number.encode()))


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\udfff": 1}', '["a\\ud83d"]'])
def test_half_of_a_surrogate_pair_is_refused(text):
    with pytest.raises(Malformed, match="surrogate"):
        check_json(text.encode())


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_every_kind_of_nesting_has_the_same_maximum(opening, closing):
    levels = opening.count("[") + opening.count("{")
    allowed, too_deep = MAX_DEPTH // levels, MAX_DEPTH // levels + 1
    check_json((opening * allowed + "1" + closing * allowed).encode())
    check_json(("[" + ",".join(['{"a": "[[{"}'] * 200) + "]").encode())
    with pytest.raises(Malformed, match="nested deeper"):
        check_json((opening * too_deep + "1" + closing * too_deep).encode())


DEEPEST = "[" * MAX_DEPTH + "]" * MAX_DEPTH


@settings(max_examples=60)
@given(st.one_of(documents, deep), st.sampled_from(PATHS))
@example('["1e400", "NaN"]', "map(&to_number(@), @)")
@example("[1e308, 1e308]", "sum(@)")
@example("[1e308, 1e308]", "avg(@)")
@example(f"[{'9' * 308}, 1e300]", "[*]")
@example(DEEPEST, "@")
@example(DEEPEST, "[[[[@]]]]")
def test_json_that_the_decoder_accepts_can_be_evaluated(text, path):
    check_json(text.encode())
    payload = msgspec.Raw(text.encode())
    context = EvaluationContext(payload, {1: msgspec.Raw(msgspec.json.encode(text))}, {})
    for value in evaluate_references(context, path):
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    label = latest_key("1", path, payload)
    assert label is None or label.startswith("1\0")


@pytest.mark.parametrize("path", ["", "@", "id", "[0]"])
@pytest.mark.parametrize("text", ['{"id": 1e400}', "[1e400]", "9" * 5000, "[" * 5000 + "]" * 5000])
def test_json_that_only_an_older_release_accepted_raises_cannot_evaluate(text, path):
    payload = msgspec.Raw(text.encode())
    context = EvaluationContext(payload, {1: payload}, {})
    assert evaluate_references(context, path) == []
    assert latest_key("1", path, payload) is None
    assert evaluate_or_none(request_body, [Payload()], payload, {}, BodyForm.PYTHON_REPR) is None
    _, fields = describe_fact(Accepted("1", "v", payload, "rest"))
    assert fields


def evaluate_references(context, path):
    """Evaluate references with this path, and use them in each other way. Returns their values."""
    values = []
    for ref in (Payload(path), Result(1, path)):
        value = evaluate_or_none(evaluate, ref, context)
        if value is not None and (path or isinstance(ref, Payload)):
            values.append(value)
        evaluate_or_none(as_text, ref, context)
        for comparison in (Comparison.EQUAL, Comparison.LESS, Comparison.IN):
            evaluate_or_none(is_true, Compare(comparison, ref, Literal(1.5)), context)
            evaluate_or_none(is_true, Compare(comparison, Payload(), ref), context)
        template = ObjectOf((("a", ref), ("b", Status(1)), ("c", Header(1, "x"))))
        evaluate_or_none(as_json, template, context)
        body = evaluate_or_none(content_json, Content(json=template), context)
        if body is not None and path:
            check_json(bytes(body))
    return values


def evaluate_or_none(work, *args):
    """The result of ``work(*args)``. None if it raises CannotEvaluate."""
    try:
        return work(*args)
    except CannotEvaluate:
        return None


@settings(max_examples=40)
@given(st.one_of(documents, deep))
def test_json_that_the_decoder_accepts_can_be_sent_stored_and_displayed(text):
    check_json(text.encode())
    payload, result = msgspec.Raw(text.encode()), msgspec.Raw(msgspec.json.encode(text))
    for form in BodyForm:
        assert request_body([Payload(), Result(1)], payload, {1: result}, form)
    listed = list_text([list_element(result, ValueBudget())] * 2)
    assert len(read_json(msgspec.json.decode(listed).encode())) == 2
    facts = [Accepted("1", "v", payload, "rest"), Finished(1, 200, 1.0, result),
             Finished(2, 0, 0, payload)]  # fmt: skip
    page = encode_page([(1, fact) for fact in facts])
    read = verified_facts("r", [(1, page, page_checksum(chain_start("r"), 1, page))], 1,
                    page_checksum(chain_start("r"), 1, page))  # fmt: skip
    assert [fact for _, fact in read] == facts
    for fact in facts:
        name, details = describe_fact(fact)
        assert name
        assert details
