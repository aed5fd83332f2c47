"""A file that is edited in a browser keeps its marks, and shows all its characters."""

from __future__ import annotations

import pytest

from fractal_rm.config.shown_text import shown_text
from fractal_rm.domain.draft_text import close_draft, open_draft, unshown_character


@pytest.mark.parametrize("content", ["", "a", "a\n", "a\r\nb\r\n", "\ufeffa\n", "\n\na\tb\n"])
def test_a_file_that_is_not_changed_stays_as_it_is(content):
    text, marks = open_draft(content)
    assert "\r" not in text
    assert close_draft(text.replace("\n", "\r\n"), marks) == content


def test_mixed_ends_of_lines_become_those_of_most_lines():
    assert close_draft(*open_draft("a\r\nb\r\nc\n")) == "a\r\nb\r\nc\r\n"
    assert close_draft(*open_draft("a\r\nb\nc\n")) == "a\nb\nc\n"


@pytest.mark.parametrize(("text", "found"), [
    ("1 caffè 中文 \t# 😀\n", ""), ("a\nb\x00", "line 2 has the character U+0000"),
    ("a\rb", "line 1 has the character U+000D"), ("\u202eab", "line 1 has the character U+202E"),
])  # fmt: skip
def test_characters_that_a_browser_does_not_show_are_found(text, found):
    assert unshown_character(text) == found


@pytest.mark.parametrize(("file", "text"), [
    ("comm.conf", '{"mqtt": {"password": "hunter2"}}'),
    ("comm.conf", '{"mqtt": {"password": "hunter2'),
    ("components.conf", '{"a": {"headers": {"X": "hunter2", "Y": "Bearer hunter2"}}}'),
    ("components.conf", '{"a": {"api_key": "hunter2", "client-secret" : "hunter2"}}'),
    ("comm.conf", '{"mqtt": {"host": "mqtt://user:hunter2@host"}}'),
    ("flows.conf", '1 a\nTO a 1\nGET\n  HEADER Authorization "hunter2"\n'),
    ("flows.conf", '1 a\nTO a 1\nPOST JSON {"password": "hunter2"}\n'),
    ("nodes.conf", '{"note": "a configured value: hunter2"}'),
])  # fmt: skip
def test_secrets_are_not_in_the_text_that_is_shown(file, text):
    shown = shown_text(file, text, {"hunter2"} if file == "nodes.conf" else set())
    assert "hunter2" not in shown
    assert shown.count("\n") == text.count("\n")


@pytest.mark.parametrize("name", ["store", "camera", "reader", "heater", "storage"])
def test_a_component_is_shown_even_if_its_name_is_a_little_like_that_of_a_secret(name):
    text = f'{{"{name}": {{"id": 3, "config": {{"ip": "127.0.0.1", "endpoints": {{"a": "b"}}}}}}}}'
    assert shown_text("components.conf", text, ()) == text


@pytest.mark.parametrize("key", ["pass", "tokn", "store", "paswords"])
def test_a_text_is_masked_if_its_key_is_a_little_like_that_of_a_secret(key):
    assert "hunter2" not in shown_text("components.conf", f'{{"{key}": "hunter2"}}', ())


@pytest.mark.parametrize("key", ["header", "Headers", "haeders", "token", "passwrd"])
def test_an_object_is_masked_if_its_key_is_very_like_that_of_a_secret(key):
    assert "hunter2" not in shown_text("nodes.conf", f'{{"{key}": {{"a": ["hunter2"]}}}}', ())
