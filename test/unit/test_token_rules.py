"""Tokens: how they are made, named, recognized and hidden from."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET

from fractal_rm.domain.access import Identity, Scope
from fractal_rm.domain.facts import (
    Accepted,
    Dead,
    ElementFinished,
    Finished,
    StepFailed,
    StepPassed,
)
from fractal_rm.domain.masking.facts import HIDDEN, masked
from fractal_rm.domain.tokens import (
    InvalidTokenName,
    Token,
    check_name,
    digest_of,
    find_token,
    identity_of,
    token_text,
)


def token(text: str, name: str = "line", expires_ms: int | None = None) -> Token:
    return Token(name, digest_of(text), [Scope.READ], 1_000, expires_ms)


def test_a_token_has_256_bits_and_a_recognizable_beginning():
    text = token_text(bytes(range(32)))
    assert text == "frm_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    assert len({token_text(bytes([n]) * 32) for n in range(256)}) == 256


def test_only_the_checksum_of_a_token_is_stored():
    assert "frm_secret" not in msgspec.json.encode(token("frm_secret")).decode()


def test_a_token_is_found_by_its_whole_text():
    tokens = [token("frm_a", "a"), token("frm_b", "b")]
    found = find_token(tokens, "frm_b")
    assert found is not None
    assert found.name == "b"
    for wrong in ("frm_", "frm_bb", "frm_B", "", "b", "frm_b" * 100, "é"):
        assert find_token(tokens, wrong) is None


def test_a_token_expires_at_its_date():
    assert [token("t", expires_ms=5_000).has_expired(at) for at in (4_999, 5_000)] == [False, True]
    assert not token("t").has_expired(10**15)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a\nb", "é", "a" * 65, "a/b"])
def test_a_name_that_is_not_plain_is_refused(name):
    with pytest.raises(InvalidTokenName, match="cannot be the name of a token"):
        check_name(name, [])


def test_a_name_is_used_once():
    check_name("other", [token("t", "line")])
    with pytest.raises(InvalidTokenName, match="there is a token line already"):
        check_name("line", [token("t", "line")])


def test_the_client_of_a_token_has_its_scopes_and_admin_has_all():
    reader = identity_of(token("t"))
    assert [scope for scope in Scope if reader.may(scope)] == [Scope.READ]
    assert all(Identity("a", frozenset({Scope.ADMIN})).may(scope) for scope in Scope)


RAW = msgspec.Raw(b'"secret"')


def test_facts_are_shown_without_payloads_results_and_replies():
    facts = [
        Accepted("1", "v", RAW, "mqtt"),
        Finished(1, 200, 1.0, RAW, {"x": "secret"}, b"secret"),
        ElementFinished(1, 1, 200, 1.0, RAW, b"secret"),
        StepFailed(1, 1, "no"),
        StepPassed(1, RAW, b"secret"),
        StepPassed(1),
        Dead("malformed", "no", "mqtt", b"secret"),
    ]
    hidden = [masked(fact, shows_values=False) for fact in facts]
    assert b"secret" not in msgspec.json.encode(hidden)
    assert b"c2VjcmV0" not in msgspec.json.encode(hidden)  # "secret" in base64
    assert hidden[0] == Accepted("1", "v", HIDDEN, "mqtt")
    assert hidden[5] == StepPassed(1, UNSET)
