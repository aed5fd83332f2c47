"""The values, errors and syntax of conditions, templates and references."""

from __future__ import annotations

import json
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.condition import is_true
from fractal_rm.domain.evaluate import as_json
from fractal_rm.domain.evaluation_context import EvaluationContext, ResponseHead
from fractal_rm.domain.expression import Payload
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.flowlang import compile_flows

PAYLOAD = {"n": 2, "t": "b", "l": [1, 2.0, "x"], "o": {"k": [True]}, "yes": True, "no": False}
CONTEXT = EvaluationContext(
    msgspec.Raw(json.dumps(PAYLOAD).encode()),
    {1: msgspec.Raw(json.dumps('{"score": 0.9, "items": [{"s": 1}, {"s": 3}]}\n').encode())},
    {1: ResponseHead(204, {"etag": "7"})},
)


def step(line: str) -> Flow:
    text = f"1\nTO a 1\nGET\n  AS found\n{line}\n"
    flows, findings = compile_flows(text, {"a": ("1",)})
    assert [finding.render() for finding in findings] == []
    flow = flows["1"]
    assert msgspec.json.decode(msgspec.json.encode(flow), type=Flow) == flow
    return flow.steps[1].options


def condition(text: str) -> bool:
    return is_true(step(f"POST\n  WHEN {text}").when, CONTEXT)


@pytest.mark.parametrize(
    "text",
    [
        "payload.n == 2",
        "payload.n == 2.0",
        "2 == payload.n",
        "payload.n != 3",
        "payload.n != true",
        "1 != true",
        "payload.n < 3 and payload.n <= 2 and payload.n > 1 and payload.n >= 2",
        'payload.t > "a"',
        'payload.t == "b"',
        "payload.none == null",
        "payload.n != null",
        "null == null",
        'payload.l == [1, 2, "x"]',
        'payload.l != [true, 2, "x"]',
        'payload.o == {"k": [true]}',
        "2 in payload.l",
        "not 3 in payload.l",
        'payload.t in "abc"',
        "payload.n in [1, payload.n]",
        "payload.yes",
        "not payload.no",
        "not not payload.yes",
        "payload.yes or payload.none.such < 1",
        "not (payload.no and payload.none.such < 1)",
        "payload.no or payload.yes and payload.yes",
        "(payload.yes or payload.yes) and not payload.no",
        "found.score>0.8",
        "result1.score >= 0.9",
        "found.items[1].s == 3",
        'found."items[?s > `1`] | [0].s" == 3',
        'found."length(items)" == 2',
        "payload.l[0] == 1",
        "payload.l[0:1] == [1]",
        "status(found) == 204",
        "status(result1) in [200, 204]",
        'header(found, "ETag") == "7"',
        'header(found, "x") == null',
        "(payload.n == 2) == true",
        "true",
    ],
)  # fmt: skip
def test_a_condition_is_true(text):
    assert condition(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("payload.t < payload.n", "< compares two numbers or two texts, not a text and a number"),
        ("payload.none < 1", "not null and a number"),
        ("payload.yes < true or true", None),
        ("payload.yes > payload.no", "not true or false and true or false"),
        ("payload.l < payload.l", "not a list and a list"),
        ("1 in payload.o", "in needs a list on the right, or two texts"),
        ("payload.n and payload.yes", "a condition must be true or false, and this is a number"),
        ("payload.none", "and this is null"),
        ("payload", "and this is an object"),
        ('payload."contains(t, `1`)"', "payload.contains(t, `1`): "),
        ('payload."to_number(@) | sum(@)"', "payload.to_number(@) | sum(@): "),
    ],
)
def test_the_error_of_a_condition_gives_the_reason(text, reason):
    if reason is None:
        _, (finding,) = compile_flows(f"1\nTO a 1\nGET\n  WHEN {text}\n", {"a": ("1",)})
        assert finding.code == "F123"
        return
    with pytest.raises(CannotEvaluate) as raised:
        condition(text)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "1 + 1 == 2",
        "payload.n = 2",
        "payload.n == 2 and",
        "and payload.yes",
        "(payload.yes",
        "payload.yes)",
        "a < b < c",
        "len(payload) == 1",
        "payload.n == 'a'",
        "payload.n == 01",
        "payload.n is null",
        "x for x in payload",
        "lambda: 1",
        "payload.n == 2# comment )",
        "not",
        "[1, 2",
        '{"a": 1',
        "payload..n == 1",
        "payload. == 1",
        "status() == 1",
        "status(payload) == 1",
        "header(found) == 1",
        "(" * 40 + "true" + ")" * 40,
        "[" * 40 + "]" * 40 + " == 1",
        "payload.n == 1e999",
        "2",
        '"x"',
    ],
)
def test_invalid_syntax_is_an_error_on_its_line(text):
    text = f"1\nTO a 1\nGET\n  AS found\nPOST\n  WHEN {text}\n"
    _, findings = compile_flows(text, {"a": ("1",)})
    assert findings
    assert {finding.place.line for finding in findings} == {6}


_texts = st.text(string.printable, max_size=20)
_floats = st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | _floats | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=12,
)


@given(_json)
def test_a_template_without_references_is_sent_as_json(value):
    text = json.dumps(value)
    assert json.loads(as_json(step(f"POST JSON {text}").json, CONTEXT)) == value


@given(_json)
def test_every_json_value_equals_itself(value):
    context = EvaluationContext(msgspec.Raw(json.dumps({"v": value}).encode()), {}, {})
    text = f"1\nTO a 1\nGET\n  WHEN payload.v == {json.dumps(value)}\n"
    flows, _ = compile_flows(text, {"a": ("1",)})
    assert is_true(flows["1"].steps[0].options.when, context)


@given(_json)
def test_a_whole_payload_is_sent_byte_for_byte(value):
    payload = json.dumps(value).encode()
    context = EvaluationContext(msgspec.Raw(payload), {}, {})
    assert as_json(step('POST JSON {"a": [payload]}').json, context) == b'{"a": [' + payload + b"]}"


def test_a_reference_whose_value_is_not_json_cannot_be_sent():
    with pytest.raises(CannotEvaluate):
        as_json(Payload("&n"), CONTEXT)  # an older release may have accepted this path


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, "{", ""])
def test_a_result_that_is_not_json_raises_cannot_evaluate(text):
    context = EvaluationContext(msgspec.Raw(b"{}"), {1: msgspec.Raw(json.dumps(text).encode())}, {})
    with pytest.raises(CannotEvaluate):
        is_true(step("POST\n  WHEN found.x == 1").when, context)
