"""MASK and KEEP: which parts of a value are hidden."""

from __future__ import annotations

import json

import msgspec
import pytest
from msgspec import UNSET

from engine_stage import Stage, flows
from fractal_rm.domain.cause import ResponseExcerpt
from fractal_rm.domain.facts import Accepted, Dead, Finished, StepFailed
from fractal_rm.domain.flow import Keep, KeepSettings
from fractal_rm.domain.masking.facts import HEAD_BYTES, masked
from fractal_rm.domain.masking.omitted import Omission

MASK = KeepSettings(mask=("person.name", "image", '"serial.number"', "tags.*"))


def finished(value: object, **fields) -> Finished:
    return Finished(1, 200, 0.5, msgspec.Raw(msgspec.json.encode(value)), **fields)


def result_of(fact) -> object:
    return msgspec.json.decode(fact.result)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"person": {"name": "Anna", "age": 4}}, {"person": {"name": "*****", "age": 4}}),
        ({"a": [{"person": [{"name": "Anna"}]}]}, {"a": [{"person": [{"name": "*****"}]}]}),
        ({"name": "line 4"}, {"name": "line 4"}),
        ({"person": {"x": {"name": "n"}}}, {"person": {"x": {"name": "n"}}}),
        ({"image": {"data": [1, 2]}, "n": 1}, {"image": "*****", "n": 1}),
        ({"image": None}, {"image": None}),
        ({"serial.number": 7}, {"serial.number": "*****"}),
        ({"tags": {"a": 1, "b": "x"}}, {"tags": {"a": "*****", "b": "*****"}}),
        ({"tags": "plain"}, {"tags": "plain"}),
        ('{"image":"x","n":1}', '{"image":"*****","n":1}'),
        ('{"n": 1.50}', '{"n": 1.50}'),
        ({"body": '{"person": {"name": "Anna"}}'}, {"body": '{"person":{"name":"*****"}}'}),
        ({"person": '{"name": "Anna"}'}, {"person": '{"name":"*****"}'}),
        ({"body": '{"image": "cut of'}, {"body": "*****"}),
        ({"body": "{no json}"}, {"body": "*****"}),
        ("not JSON", "*****"),
        ('{"image": "x", "image": 1}', "*****"),
        ("[" * 70 + "]" * 70, "*****"),
        ("", ""),
        ("17", "17"),
        (17, 17),
        ([True, None], [True, None]),
    ],
)
def test_masked_fields_are_found_at_any_depth(value, expected):
    assert result_of(masked(finished(value), MASK)) == expected


def test_a_text_that_only_looks_like_json_is_masked_if_it_may_have_a_masked_field():
    value = {"a": "{no json}", "b": "{image: x"}
    assert result_of(masked(finished(value), KeepSettings(mask=("image",)))) == {
        "a": "{no json}",
        "b": "*****",
    }


def test_a_value_without_masked_fields_is_the_same_object():
    fact = finished('{"n": 1.50}')
    assert masked(fact, MASK) is fact
    assert masked(fact) is fact
    skipped = Finished(1, 0, 0, msgspec.Raw(b"null"))
    assert masked(skipped, KeepSettings(Keep.NONE)) is skipped


def test_bytes_are_masked_as_a_whole():
    fact = masked(finished(None, data=b"\xff\xd8"), MASK)
    assert (result_of(fact), fact.data, fact.omitted.size) == ("*****", UNSET, 2)


def test_the_head_of_a_value_has_a_fixed_size_and_no_broken_character():
    text = masked(finished("ä" * HEAD_BYTES), KeepSettings(Keep.HEAD))
    assert result_of(text) == "ä" * (HEAD_BYTES // 2)
    assert text.omitted.what is Omission.REST
    data = masked(finished(None, data=b"\xff" * 5_000), KeepSettings(Keep.HEAD))
    assert (data.data, data.omitted.size) == (b"\xff" * HEAD_BYTES, 5_000)


def test_fields_are_masked_before_the_head_is_cut():
    value = {"person": {"name": "Anna"}, "rest": "x" * 5_000}
    fact = masked(finished(value), KeepSettings(Keep.HEAD, ("person.name",)))
    assert '"name":"*****"' in result_of(fact)
    assert "Anna" not in result_of(fact)


@pytest.mark.parametrize("keeping", [MASK, *map(KeepSettings, Keep)])
@pytest.mark.parametrize("value", [{"image": "x" * 5_000}, "text", {"rest": "y" * 5_000}, None])
def test_a_fact_that_is_masked_again_does_not_change(value, keeping):
    once = masked(finished(value, headers={"image": "x", "etag": "7"}), keeping)
    again = masked(once, keeping)
    assert json.loads(msgspec.json.encode(again)) == json.loads(msgspec.json.encode(once))


def test_headers_are_masked_by_their_names():
    fact = masked(finished(1, headers={"Image": "x", "etag": "7"}), MASK)
    assert fact.headers == {"Image": "*****", "etag": "7"}
    assert masked(finished(1, headers={"etag": "7"}), KeepSettings(Keep.NONE)).headers is UNSET


def test_other_facts_do_not_quote_values():
    failed = StepFailed(1, 1, "status 500", answer=ResponseExcerpt(500, UNSET, "Anna"))
    assert masked(failed, MASK).answer == ResponseExcerpt(500)
    assert masked(Dead("internal", "no", body=b"Anna"), KeepSettings(Keep.NONE)).body == b""
    accepted = Accepted("1", "v", msgspec.Raw(b'"Anna"'), "mqtt", key="k")
    hidden = masked(accepted, KeepSettings(Keep.NONE))
    assert (bytes(hidden.payload), hidden.key) == (b'"(not kept)"', "k")


@pytest.mark.parametrize("settings", ["", "KEEP none\n", "KEEP head\n", "MASK name\n"])
@pytest.mark.parametrize("expect", ["", "\n  EXPECT result1.name == 1", "\n  EXPECT 201"])
async def test_with_keep_or_mask_reasons_do_not_quote_responses(settings, expect):
    flow = flows(f"1\n{settings}TO a 1\nPOST payload{expect}\n")
    status = 200 if expect else 500
    async with Stage(flows=flow) as stage:
        stage.set_answer("a/1", '{"name": "Anna"}', status)
        outcome = await stage.run("1", payload={"name": "Anna"})
        assert ("Anna" in outcome.reason) == (settings == "")
        assert str(status) in outcome.reason
