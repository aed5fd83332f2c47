"""Reading JSON with the places of its values, and loading configuration files with any content."""

from __future__ import annotations

import json
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config_files import SHIPPED
from fractal_rm.config.compile import FILES, Compiled
from fractal_rm.config.json_text import JsonFault, Value, parse_json
from fractal_rm.config.load import load
from fractal_rm.domain.findings import ConfigRejected


def plain(value: Value) -> object:
    if isinstance(value.plain, dict):
        return {key: plain(inner) for key, inner in value.plain.items()}
    if isinstance(value.plain, list):
        return [plain(inner) for inner in value.plain]
    return value.plain


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(_json, st.sampled_from([None, 0, 3]))
def test_valid_json_is_read_as_by_the_standard_library(value, indent):
    assert plain(parse_json(json.dumps(value, indent=indent))) == value


@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \n\t\\x', max_size=40))
def test_invalid_json_is_refused_as_by_the_standard_library(text):
    def reject_constant(name):
        raise ValueError(name)

    def reject_duplicates(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("duplicate keys")
        return dict(pairs)

    try:
        expected_value = json.loads(
            text, parse_constant=reject_constant, object_pairs_hook=reject_duplicates
        )
    except ValueError:
        with pytest.raises(JsonFault):
            parse_json(text)
    else:
        value = plain(parse_json(text))
        assert value == expected_value or (isinstance(value, float) and math.isinf(value))


def test_places_are_lines_and_columns():
    value = parse_json('{\n  "a": 1,\n  "bc": [true]\n}')
    assert (value.keys["bc"].line, value.keys["bc"].column, value.keys["bc"].width) == (3, 3, 4)
    inner = value.plain["bc"].plain[0].place
    assert (inner.line, inner.column, inner.width) == (3, 10, 4)


@pytest.mark.parametrize("number", ["1e999", "-1e400", "9" * 310])
def test_a_number_that_does_not_fit_a_double_is_a_finding_at_its_place(number):
    with pytest.raises(JsonFault, match="too large for a double") as caught:
        parse_json(f'{{"a": [1,\n {number}]}}')
    assert (caught.value.code, caught.value.place.line, caught.value.place.column) == ("C206", 2, 2)
    assert caught.value.place.width == len(number)


_unusual_values = st.sampled_from([
    "${file:none}", "${file:a\0b}", "${file:.}", "${env:NONE}", "${env:\ud800}", "\ud800", "\0", "",
    "a\r\nb", "主机", "..", "x" * 300, int("9" * 400), -1, 1e999, True, None, [], {}, {"x": {}},
    float("9" * 30), "/{b:foo}", "0.0.0.0", "1.2.3", "-", "2",
])  # fmt: skip


def places(content: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The path of every value in a JSON value."""
    paths = [path]
    for key, inner in content.items() if isinstance(content, dict) else ():
        paths += places(inner, (*path, key))
    return paths


@st.composite
def changed_file(draw, file: str) -> bytes:
    """The shipped file with one random change, or without a change."""
    content = (SHIPPED / file).read_bytes()
    change = draw(st.sampled_from(["unchanged", "bytes", "cut", "value"]))
    if change == "bytes":
        return draw(st.binary(max_size=60))
    if change == "cut":
        place = st.integers(0, len(content))
        begin, end = sorted((draw(place), draw(place)))
        return content[:begin] + draw(st.binary(max_size=8)) + content[end:]
    if change == "unchanged" or file == "flows.conf":
        return content
    value = json.loads(content)
    _whole, *inner_places = places(value)
    *outer, last = draw(st.sampled_from(inner_places))
    inner = value
    for key in outer:
        inner = inner[key]
    inner[draw(st.sampled_from([last, *KEYS]))] = draw(_unusual_values | _json)
    return json.dumps(value).encode()


KEYS = ("password", "headers", "tls", "path", "id", "drain_s", "limit", "body", "client_id", "log",
        "state", "node", "recovery")  # fmt: skip


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("any") / "config_files"


@settings(max_examples=300)
@given(st.fixed_dictionaries({file: changed_file(file) for file in FILES}))
def test_any_content_gives_a_configuration_or_findings(scratch, contents):
    scratch.mkdir(exist_ok=True)
    for file, content in contents.items():
        (scratch / file).write_bytes(content)
    try:
        compiled = load(scratch, os.environ)
    except ConfigRejected as rejected:
        assert rejected.findings
        assert "".join(finding.render() for finding in rejected.findings).encode()
    else:
        assert isinstance(compiled, Compiled)
