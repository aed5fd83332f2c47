"""Single values of a JSON file are changed, and the rest of its text stays as it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_files import SHIPPED
from fractal_rm.config.json_edit import NotAnObject, with_value, without_key

TLS = {"cert": "a.pem", "key": "a.key"}
KEYS = st.sampled_from(["a", "b", "ä", 'with "quotes"', "", "{", "}"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)
FORMATS = st.sampled_from([
    {}, {"indent": 4}, {"indent": "\t"}, {"indent": 2, "ensure_ascii": False},
    {"separators": (",", ":")},
])  # fmt: skip


def test_new_keys_get_the_indentation_of_the_shipped_file():
    text = (SHIPPED / "comm.conf").read_text()
    changed = with_value(with_value(text, ("rest", "tls"), TLS), ("node", "id"), 1)
    assert changed == text.replace(
        '"endpoint": "/startrm"\n    }\n',
        '"endpoint": "/startrm",\n        "tls": {\n            "cert": "a.pem",\n'
        '            "key": "a.key"\n        }\n    },\n    "node": {\n        "id": 1\n    }\n',
    )


def test_a_value_is_replaced_where_it_is():
    text = '{\n\t"a" : 1 ,\n\t"b":{ "c" : [1,2] }\n}\n'
    assert with_value(text, ("b", "c"), "x") == '{\n\t"a" : 1 ,\n\t"b":{ "c" : "x" }\n}\n'


def test_an_object_in_one_line_stays_in_one_line():
    text = '{"rest": {"endpoint": "/startrm"}}'
    changed = with_value(text, ("rest", "tls"), TLS)
    assert changed == (
        '{"rest": {"endpoint": "/startrm", "tls": {"cert": "a.pem", "key": "a.key"}}}'
    )


def test_the_line_ends_and_the_byte_order_mark_of_a_file_are_kept():
    text = '\ufeff{\r\n  "a": 1\r\n}\r\n'
    changed = with_value(text, ("b",), {"c": 1})
    assert changed == '\ufeff{\r\n  "a": 1,\r\n  "b": {\r\n    "c": 1\r\n  }\r\n}\r\n'


def test_an_empty_file_gets_lines():
    assert with_value("{}\n", ("a", "b"), 1) == '{\n    "a": {\n        "b": 1\n    }\n}\n'


@pytest.mark.parametrize(
    ("key", "rest"),
    [
        ("a", '{\n  "b": 2,\n  "c": 3\n}'),
        ("b", '{\n  "a": 1,\n  "c": 3\n}'),
        ("c", '{\n  "a": 1,\n  "b": 2\n}'),
        ("d", '{\n  "a": 1,\n  "b": 2,\n  "c": 3\n}'),
    ],
)
def test_a_removed_key_leaves_the_others_as_they_were(key, rest):
    assert without_key('{\n  "a": 1,\n  "b": 2,\n  "c": 3\n}', (key,)) == rest


def test_a_key_inside_a_number_cannot_be_set():
    with pytest.raises(NotAnObject):
        with_value('{"a": 1}', ("a", "b"), 2)


@given(OBJECTS, FORMATS, KEYS, VALUES)
def test_only_the_given_key_changes(content, form, key, value):
    text = json.dumps(content, **form)
    changed = json.loads(with_value(text, (key,), value))
    assert changed == {**content, key: value}
    assert list(changed) == list({**content, key: value})
    without = json.loads(without_key(text, (key,)))
    assert without == {name: each for name, each in content.items() if name != key}


@given(OBJECTS, FORMATS, KEYS, KEYS, VALUES)
def test_a_value_in_an_inner_object_can_be_set(inner, form, key, name, value):
    text = json.dumps({"first": 1, key: inner, "last": [{}]}, **form)
    expected = {**json.loads(text), key: {**inner, name: value}}
    assert json.loads(with_value(text, (key, name), value)) == expected
