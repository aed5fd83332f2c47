"""References that are null because an object has no such field."""

from __future__ import annotations

import msgspec
import pytest

from fractal_rm.domain import missing_fields as module
from fractal_rm.domain.expression import Item, Payload, Result
from fractal_rm.domain.missing_fields import StepValues, keys_of, missing_fields
from fractal_rm.flowlang import compile_flows

ENDPOINTS = {"camera": ("read", "back")}
SHOT = {"frame": "f1", "temperature": 20.1, "parts": [{"id": 1}, {}], "note": None, "kind of": "x"}
PAYLOAD = {"operator": {"name": "anna"}, "parts": [{"id": 1}, {"name": "b"}], "size": 3}


def _step(text: str):
    flows = f"1\nTO camera read\nGET\n  AS shot\nTO camera read\n{text}\n"
    compiled, findings = compile_flows(flows, ENDPOINTS)[:2]
    assert not findings
    return compiled["1"].steps[1]


def _as_result(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(msgspec.json.encode(value).decode()))


def _found(text: str, result: msgspec.Raw | None = None, element: int = 1):
    step, payload = _step(text), msgspec.Raw(msgspec.json.encode(PAYLOAD))
    values = StepValues(payload, {1: _as_result(SHOT) if result is None else result}, element)
    return missing_fields(step, step, values)


@pytest.mark.parametrize(
    ("text", "holder", "field", "similar"),
    [
        ('POST JSON {"a": shot.temprature}', Result(1), "temprature", "temperature"),
        ('POST JSON {"a": [1, {"b": shot.Frame}]}', Result(1), "Frame", "frame"),
        (r'POST JSON {"a": shot."\"kind off\""}', Result(1), "kind off", "kind of"),
        ("POST shot.parts[0].idd", Result(1, "parts[0]"), "idd", "id"),
        ("POST shot.parts[-1].id", Result(1, "parts[-1]"), "id", None),
        ("POST base64(shot.xyz)", Result(1), "xyz", None),
        ("POST RAW payload.operator.nam", Payload("operator"), "nam", "name"),
        ("POST payload.operater.name", Payload(), "operater", "operator"),
        ("POST payload\n  WHEN shot.fram == 1 and true", Result(1), "fram", "frame"),
        ("POST payload\n  EXPECT shot.fram in [1]", Result(1), "fram", "frame"),
        ("POST payload\n  HEADER X-A shot.fram", Result(1), "fram", "frame"),
        ('POST payload\n  QUERY "a" shot.fram', Result(1), "fram", "frame"),
        ("POST item\n  FOREACH payload.part", Payload(), "part", "parts"),
        ("POST item.idd\n  FOREACH payload.parts", Item(), "idd", "id"),
    ],
)  # fmt: skip
def test_a_field_that_an_object_lacks_is_found_with_the_similar_field(text, holder, field, similar):
    (missing,) = _found(text)
    assert (missing.holder, missing.field, missing.similar) == (holder, field, similar)


@pytest.mark.parametrize(
    "text",
    [
        "POST shot.temperature payload shot",
        "POST shot.note",  # it is null in the result
        "POST shot.note.a",  # null is no object
        "POST shot.frame.a",  # a text is no object
        "POST shot.parts.id",  # a list is no object
        "POST shot.parts[7].id",
        'POST JSON {"a": shot."length(partz)"}',
        'POST JSON {"a": shot."parts[*].idd"}',
        'POST JSON {"a": shot."partz || frame"}',
        "POST result1",
    ],
)
def test_nothing_is_found_in_other_values_and_other_paths(text):
    assert _found(text) == []


def test_only_paths_of_names_and_indexes_have_keys():
    assert keys_of('a."b c"[0].d') == [("a", "a"), ('."b c"', "b c"), ("[0]", 0), (".d", "d")]
    assert keys_of("[1].a") == [("[1]", 1), (".a", "a")]
    others = (
        "length(a)",
        "a[*]",
        "a || b",
        ".a",
        "a.",
        "a.[0]",
        "a b",
        '"a',
        "a[?x]",
        "a[0",
        '"\\x"',
    )
    assert [keys_of(path) for path in others] == [None] * len(others)


def test_the_item_is_that_of_the_element():
    (missing,) = _found("POST item.id\n  FOREACH payload.parts", element=2)
    assert (missing.holder, missing.fields) == (Item(), ("name",))
    assert _found("POST item.id\n  FOREACH payload.parts", element=9) == []


@pytest.mark.parametrize("result", ['"no JSON"', '"{\\"a\\": "', "null", "[]", "7", '""'])
def test_a_result_that_is_no_object_has_no_missing_field(result):
    assert _found("POST shot.a", msgspec.Raw(result.encode())) == []


def test_the_result_of_a_run_step_may_be_an_object_itself():
    (missing,) = _found("POST shot.fram", msgspec.Raw(b' {"frame": 1}'))
    assert missing.similar == "frame"


def test_those_with_a_similar_field_come_first_and_each_reference_once():
    found = _found("POST shot.zzz shot.fram shot.fram")
    assert [missing.field for missing in found] == ["fram", "zzz"]


def test_of_a_large_object_only_some_fields_are_named_and_none_is_compared():
    (missing,) = _found("POST shot.k", _as_result({f"k{n}": n for n in range(5_000)}))
    assert (missing.total, missing.similar) == (5_000, None)
    assert missing.fields == tuple(f"k{n}" for n in range(10))


def test_values_that_are_too_large_together_are_not_read(monkeypatch):
    monkeypatch.setattr(module, "MAX_READ_BYTES", 100)
    assert _found("POST shot.a", _as_result({"text": "x" * 100})) == []
