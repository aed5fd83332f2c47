"""Conditions and templates are written as text, and the text is read as the same values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.expression import (
    AllOf,
    AnyOf,
    Base64,
    Compare,
    Comparison,
    Expression,
    Header,
    ListOf,
    Literal,
    Not,
    ObjectOf,
    Payload,
    Result,
    Status,
)  # fmt: skip
from fractal_rm.domain.findings import Level
from fractal_rm.domain.flow import Call, CallOptions
from fractal_rm.flowlang import compile_flows
from fractal_rm.flowlang.duration import duration_ms, duration_text
from fractal_rm.flowlang.wording import TextWriter, result_names

KNOWN = {"camera": ("1",)}
BEFORE = "1\nTO camera 1\nGET\n  AS frame\nGET\nPOST"
WRITER = TextWriter({1: "frame"})


def options_of(text: str) -> CallOptions:
    flows, findings = compile_flows(text, KNOWN)
    assert [f.render() for f in findings if f.level is Level.ERROR] == []
    call = flows["1"].steps[-1]
    assert isinstance(call, Call)
    assert isinstance(call.options, CallOptions)
    return call.options


PATHS = st.sampled_from(["", "a", "a.b_c[0].d", "a[?x > `0.5`]", '"a b"', "*.c", "length(@)"])
REFERENCES = st.one_of(
    PATHS.map(Payload), st.builds(Result, st.integers(1, 2), PATHS),
)  # fmt: skip
TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)
LITERALS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False,
    allow_infinity=False), TEXTS,
).map(Literal)  # fmt: skip
BASE64 = REFERENCES.map(Base64)
FUNCTIONS = st.one_of(
    st.integers(1, 2).map(Status), st.builds(Header, st.integers(1, 2), st.just("x-a"))
)


def has_reference(values: list[Expression]) -> bool:
    return any(not isinstance(value, Literal) for value in values)


VALUES = st.recursive(
    st.one_of(REFERENCES, FUNCTIONS, LITERALS),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3)
        .filter(has_reference)
        .map(lambda v: ListOf(tuple(v))),
        st.dictionaries(TEXTS, inner, min_size=1, max_size=3)
        .filter(lambda fields: has_reference(list(fields.values())))
        .map(lambda fields: ObjectOf(tuple(fields.items()))),
    ),
    max_leaves=6,
)
CONDITIONS = st.recursive(
    st.one_of(REFERENCES, st.builds(Compare, st.just(Comparison.EQUAL), VALUES, VALUES)),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: AllOf(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: AnyOf(tuple(parts))),
        st.builds(Compare, st.just(Comparison.UNEQUAL), inner, VALUES),
    ),
    max_leaves=6,
)


@given(VALUES, BASE64)
def test_the_text_of_a_template_is_read_as_the_same_template(value, base64):
    for each in (value, base64, ListOf((value, base64))):
        text = WRITER.expression(each)
        assert options_of(f"{BEFORE} JSON {text}").json == each


@given(st.lists(REFERENCES | BASE64, min_size=1, max_size=3))
def test_the_text_of_items_is_read_as_the_same_items(items):
    flows, findings = compile_flows(f"{BEFORE} {WRITER.items(items)}", KNOWN)
    assert findings == []
    assert flows["1"].steps[-1].items == tuple(items)


@given(CONDITIONS)
def test_the_text_of_a_condition_is_read_as_the_same_condition(value):
    text = WRITER.expression(value)
    assert options_of(f"{BEFORE}\n  WHEN {text}").when == value


def test_a_condition_is_written_without_needless_parentheses():
    text = 'not (frame.a or payload.b) and (status(frame) == 200 or payload.c in [1, "x"])'
    when = options_of(f"{BEFORE}\n  WHEN {text}").when
    assert when is not None
    assert WRITER.expression(when) == text


@pytest.mark.parametrize("text", ["1ms", "1500ms", "2s", "90s", "3m", "24h"])
def test_a_duration_is_written_in_the_largest_unit_that_gives_a_whole_number(text):
    assert duration_text(duration_ms(text)) == text


def test_result_names_returns_the_names_of_calls_by_number():
    flows, _ = compile_flows(BEFORE, KNOWN)
    assert result_names(flows["1"]) == {1: "frame"}
