"""The sessions of people at the pages, and where their cookies and forms count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.access import Scope
from fractal_rm.domain.form_origin import sent_from_here
from fractal_rm.domain.sessions import form_token, session_text, token_of_session
from fractal_rm.domain.tokens import Token
from fractal_rm.web.app import is_served_from_start
from fractal_rm.web.cookies import cookie_value
from fractal_rm.web.page_paths import FOLDERS, is_page, scope_of_page

KEY = b"k" * 32
TOKEN = Token("anna", "ab" * 32, [Scope.READ], 0, expires_ms=5_000)
SESSION = session_text(KEY, TOKEN, 9_000)
OTHER = Token("anna", "cd" * 32, [Scope.ADMIN], 0)


def test_a_session_is_that_of_its_token_until_one_of_both_ends():
    forever = Token("anna", "ab" * 32, [Scope.READ], 0)
    assert token_of_session(SESSION, KEY, [TOKEN], 4_999) is TOKEN
    assert token_of_session(SESSION, KEY, [TOKEN], 5_000) is None
    assert token_of_session(SESSION, KEY, [forever], 8_999) is forever
    assert token_of_session(SESSION, KEY, [forever], 9_000) is None
    assert token_of_session(SESSION, KEY, [OTHER], 1) is None
    assert token_of_session(SESSION, b"x" * 32, [TOKEN], 1) is None
    assert token_of_session(SESSION, KEY, [], 1) is None


@given(st.text() | st.builds("".join, st.lists(st.sampled_from([*SESSION, ".", "9"]), max_size=90)))
def test_no_other_text_is_a_session(text):
    assert text == SESSION or token_of_session(text, KEY, [TOKEN, OTHER], 1) is None


def test_each_session_has_its_own_form_token():
    texts = {form_token(KEY, each) for each in ("", SESSION, session_text(KEY, TOKEN, 9_001))}
    assert len(texts) == 3
    assert SESSION not in texts


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_any_bytes_can_be_cookies(lines):
    assert cookie_value(lines, "fractal_rm_1").isascii()


def test_a_cookie_is_found_by_its_whole_name():
    lines = [b"xa=1; a =2; a=3;a=4", b"a=5"]
    assert cookie_value(lines, "a") == "3"


# --- paths ----------------------------------------------------------------------------------------

_WORDS = st.sampled_from(
    ["", ".", "..", "v1", "runs", "flows", "node", "livez", "startrm", "x", "sign-in", "try", "1"]
)
_PATHS = st.lists(_WORDS, max_size=6).map("/".join) | st.text(max_size=20)


@given(_PATHS.map(lambda path: f"/{path}"), st.sampled_from(["/startrm", "/runs/x", "/", "/flows"]))
def test_no_path_is_a_page_and_also_served_from_the_start(path, endpoint):
    assert not (is_page(path, endpoint) and is_served_from_start(endpoint, path))


@given(_PATHS)
def test_below_v1_there_is_no_page(path):
    for prefix in ("/v1", "//v1/", "/v1/"):
        assert not is_page(f"{prefix}/{path}", "/startrm")


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/", "read"), ("HEAD", "//runs/", "read"), ("OPTIONS", "/runs", "read"),
        ("POST", "/runs/1/cancel", "operate"), ("POST", "/flows/1/pause", "operate"),
        ("POST", "/flows/1/try", "trigger"), ("POST", "//flows//1//try/", "trigger"),
        ("POST", "/flows/1/try/x", "operate"), ("POST", "/flows/try", "operate"),
        ("POST", "/config/edit/flows.conf", "admin"), ("POST", "//config", "admin"),
        ("DELETE", "/config", "admin"), ("GET", "/config", "read"),
        ("POST", "/sign-in", None), ("POST", "/settings/", None), ("GET", "/static/a/b", None),
        ("POST", "/runs/sign-in", "operate"), ("PATCH", "/bulk", "operate"),
    ],
)  # fmt: skip
def test_each_page_needs_a_scope(method, path, scope):
    found = scope_of_page(method, path)
    assert (found and found.value) == scope


def test_only_these_pages_are_open_to_everybody():
    assert {each for each in FOLDERS if scope_of_page("POST", f"/{each}") is None} == {
        "sign-in", "sign-out", "settings", "static",
    }  # fmt: skip


# --- forms ----------------------------------------------------------------------------------------

PUBLIC = ("https", "fractal.example", 443)


@pytest.mark.parametrize(
    ("site", "origin", "host", "public", "expected"),
    [
        (None, None, "a:1", None, None),
        ("same-origin", None, "a:1", None, True),
        ("none", None, "a:1", None, True),
        ("cross-site", None, "a:1", None, False),
        ("same-site", "http://a:1", "a:1", None, False),
        ("", "http://a:1", "a:1", None, False),
        (None, "http://a:1", "a:1", None, True),
        (None, "HTTP://A.:1", "a:1", None, True),
        (None, "https://a", "a:443", None, True),
        (None, "https://a:1", "a:1", None, True),
        (None, "http://[::1]:1", "[0::1]:1", None, True),
        (None, "http://a:2", "a:1", None, False),
        (None, "http://b:1", "a:1", None, False),
        (None, "null", "a:1", None, False),
        (None, "", "a:1", None, False),
        (None, "http://a:1", "", None, False),
        (None, "http://a:1", "a:1@b", None, False),
        (None, "http://\u00e9:1", "\u00e9:1", None, False),
        (None, "https://fractal.example", "a:1", PUBLIC, True),
        ("same-origin", "https://fractal.example", "a:1", PUBLIC, True),
        (None, "http://fractal.example", "a:1", PUBLIC, False),
        ("same-origin", "https://evil.example", "a:1", PUBLIC, False),
    ],
)
def test_a_form_is_from_here_if_nothing_that_the_browser_says_denies_it(
    site, origin, host, public, expected
):
    assert sent_from_here(site, origin, host, public) is expected
