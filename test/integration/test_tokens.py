"""Tokens on the disk, and what they allow on a real node."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from components import Components
from engine_stage import QuietTelemetry
from fractal_rm.adapters.access import Tokens
from fractal_rm.config.token_file import TokenFile, TokensUnreadable
from fractal_rm.domain.access import Identity, Scope
from fractal_rm.domain.tokens import Token, digest_of
from nodes import NodeProcess


def add(file: TokenFile, name: str, *scopes: Scope, expires_ms: int | None = None) -> None:
    """Add a token whose text is its name."""
    with file.changing() as tokens:
        tokens.append(Token(name, digest_of(name), list(scopes), 0, expires_ms))


@pytest.fixture
def file(tmp_path):
    return TokenFile(tmp_path / "state")


def tokens_of(file: TokenFile, now_ms: int = 0, telemetry=None) -> Tokens:
    return Tokens(file, lambda: now_ms, telemetry or QuietTelemetry())


def test_only_the_owner_can_read_the_token_file(file):
    add(file, "a", Scope.READ)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_running_node_notices_new_and_revoked_tokens(file):
    tokens = tokens_of(file)
    assert not tokens.has_tokens
    add(file, "a", Scope.READ)
    assert tokens.identify("a") == Identity("token a", frozenset({Scope.READ}))
    with file.changing() as stored:
        stored.clear()
    assert "it is wrong, or it was revoked" in tokens.identify("a")
    file.path.unlink()
    assert not tokens.has_tokens


def test_an_expired_token_is_refused_by_its_name(file):
    add(file, "a", Scope.READ, expires_ms=1_000)
    assert tokens_of(file, 1_000).identify("a") == "the token a has expired"
    assert isinstance(tokens_of(file, 999).identify("a"), Identity)


def test_tokens_that_expire_within_a_fortnight_are_named(file):
    day_ms = 86_400_000
    for days in (-1, 0, 1, 5, 13, 14, 15):
        add(file, f"t{days}", Scope.READ, expires_ms=100 * day_ms + days * day_ms)
    add(file, "for-ever", Scope.READ)
    assert tokens_of(file, 100 * day_ms).warnings() == [
        "the token t-1 has expired",
        "the token t0 has expired",
        "the token t1 expires in less than 2 days",
        "the token t5 expires in 5 days",
        "the token t13 expires in 13 days",
        "the token t14 expires in 14 days",
    ]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'[{"name": "a"}]', b"\xff"])
def test_while_the_file_cannot_be_read_no_token_is_valid(file, content):
    add(file, "a", Scope.READ)
    telemetry = QuietTelemetry()
    tokens = tokens_of(file, telemetry=telemetry)
    assert isinstance(tokens.identify("a"), Identity)
    file.path.write_bytes(content)
    for _ in range(2):
        assert isinstance(tokens.identify("a"), str)
    assert telemetry.events == ["tokens_unreadable"]
    with pytest.raises(TokensUnreadable, match="delete the file and make new tokens"):
        file.read()


def test_the_token_file_is_the_only_file_that_a_change_leaves(file):
    add(file, "a", Scope.READ)
    assert [path.name for path in file.path.parent.iterdir()] == ["tokens.json"]


def test_an_exception_during_a_change_changes_nothing(file):
    add(file, "a", Scope.READ)
    with pytest.raises(RuntimeError), file.changing() as tokens:
        tokens.clear()
        raise RuntimeError
    assert [token.name for token in file.read()] == ["a"]


def test_changes_at_the_same_time_are_all_kept(file):
    names = [f"t{number}" for number in range(20)]
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(add, file, name, Scope.READ) for name in names]:
            done.result()
    assert sorted(token.name for token in file.read()) == sorted(names)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    components = Components()
    process = NodeProcess(tmp_path_factory.mktemp("tokens"), components=components.port, mode="api")
    process.start()
    file = TokenFile(process.state)
    for scope in Scope:
        add(file, scope.value, scope)
    yield process
    assert process.stop() == 0
    components.stop()


def request(node, method: str, path: str, token: str | None = None, body: bytes = b""):
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return node.request(method, path, body, Content_Type="application/json", **headers)


def test_a_token_limits_also_a_program_on_this_machine(node):
    assert request(node, "GET", "/v1/runs", "read")[0] == 200
    assert request(node, "GET", "/v1/runs", "admin")[0] == 200
    status, _, problem = request(node, "POST", "/v1/flows/1/runs", "read", b"1")
    assert (status, problem["type"].rpartition(":")[2]) == (403, "missing-scope")
    assert problem["detail"] == "this request needs the scope trigger; token read has read"
    assert request(node, "POST", "/v1/flows/1/runs", "trigger", b"1")[0] in (200, 202)


def test_a_token_that_is_not_known_is_refused_on_every_path(node):
    for path in ("/v1/runs", "/v1/flows", "/v1/runs/unknown", "/nothing", "/readyz"):
        status, headers, problem = request(node, "GET", path, "wrong")
        assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="fractal-rm"')
        assert "this token is not known here" in problem["detail"]


def test_readyz_names_a_token_that_expires_soon(node):
    add(TokenFile(node.state), "old", Scope.READ, expires_ms=1)
    texts = [check["text"] for check in node.get("/readyz")[2]["checks"]]
    assert any("; the token old has expired" in text for text in texts)


def test_payloads_and_results_are_hidden_without_the_scope_payload(node):
    _, _, answer = node.trigger(payload="a-secret", Prefer="wait=30")
    path = f"/v1/runs/{answer['run']}"
    shown = json.dumps(request(node, "GET", path)[2])
    hidden = json.dumps(request(node, "GET", path, "read")[2])
    assert "a-secret" in shown
    assert "a-secret" not in hidden
    assert "(hidden)" in hidden


UNKNOWN = {"flow_id": "999", "run_id": "01M872C587MC9CTEMPDVW2QE67", "bulk_id": "5"}


def routes_with(node, ids: dict[str, str]) -> list[tuple[str, str]]:
    """Method and path of every route in the description of the API, with these ids."""
    described = node.get("/schema")[2]["paths"]
    return [
        (method.upper(), path.format(**ids)) for path, item in described.items() for method in item
    ]


@pytest.mark.parametrize("token", ["payload", "wrong", None])
def test_a_client_that_may_not_request_it_cannot_tell_whether_a_flow_or_a_run_exists(node, token):
    _, _, started = node.trigger(Prefer="wait=30")
    known = routes_with(node, {"flow_id": "1", "run_id": started["run"], "bulk_id": "5"})
    unknown = routes_with(node, UNKNOWN)
    assert known != unknown
    proxy = {} if token else {"Via": "1.1 proxy"}  # otherwise this machine needs no token
    authorization = {"Authorization": f"Bearer {token}"} if token else {}
    for (method, path), (_, other) in zip(known, unknown, strict=True):
        answers = [
            node.request(method, each, b"{}", Content_Type="application/json",
                         **proxy, **authorization)
            for each in (path, other, "/nothing")
        ]  # fmt: skip
        assert answers[0][0] == (403 if token == "payload" else 401), (method, path)
        statuses_and_bodies = [(status, body) for status, _, body in answers]
        assert statuses_and_bodies[0] == statuses_and_bodies[1], (method, path)
        names = [sorted(headers) for _, headers, _ in answers]
        assert names[0] == names[1], (method, path)


def test_a_client_that_may_only_trigger_cannot_tell_whether_a_run_exists(node):
    _, _, started = node.trigger(Prefer="wait=30")
    for method in ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"):
        first, second = (
            request(node, method, f"/v1/runs/{run}", "trigger")
            for run in (started["run"], UNKNOWN["run_id"])
        )
        assert (first[0], first[2]) == (second[0], second[2])
        assert first[0] in (403, 405)
