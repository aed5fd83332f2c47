"""A real node behind a proxy on its machine: requests as a proxy sends them, byte by byte."""

from __future__ import annotations

import json
import socket

import pytest

from components import Components
from nodes import HOST, NodeProcess
from programs import run_text

BODY = b'{"id_flow": "1", "is_load_balancing": true, "payload": 1}'


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    components = Components()
    process = NodeProcess(tmp_path_factory.mktemp("proxy"), components=components.port, mode="api")
    process.edit(
        "comm",
        rest__public_url="https://fractal.example",
        rest__trusted_proxies=[HOST],
        rest__trusted_peers=["10.1.0.0/24"],
    )
    process.start()
    yield process
    assert process.stop() == 0
    components.stop()


@pytest.fixture(scope="module")
def tokens(node):
    def new(*scopes: str) -> str:
        words = [word for scope in scopes for word in ("--scope", scope)]
        name = "-".join(scopes)
        return run_text("token", "new", name, *words, "--config", node.config).stdout.strip()

    return {"read": new("read"), "trigger": new("trigger")}


def answer(node, line: str, *fields: str, body: bytes = b"") -> tuple[int, str]:
    """Send a request with exactly these header fields. Returns its status and detail."""
    lines = [f"{line} HTTP/1.1", *fields, f"Content-Length: {len(body)}", "Connection: close"]
    if body:
        lines.append("Content-Type: application/json")
    with socket.create_connection((HOST, node.rest), 20) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        received = b""
        while part := client.recv(65_536):
            received += part
    head, _, content = received.partition(b"\r\n\r\n")
    status, found = int(head.split(b" ")[1]), json.loads(content or b"null")
    return status, found.get("detail", "") if isinstance(found, dict) else ""


OWN = f"Host: {HOST}"
PUBLIC = "Host: fractal.example"


@pytest.mark.parametrize(
    "fields",
    [
        ("X-Forwarded-For: 127.0.0.1",),
        ("x-forwarded-for: 10.1.0.2",),
        ("X-Forwarded-For: 192.0.2.7", "X-Forwarded-For: 127.0.0.1"),
        ("Forwarded: for=127.0.0.1",),
        ("X-Forwarded-Proto: https",),
        ("X-Forwarded-Host: localhost",),
        ("Via: 1.1 proxy",),
        ("X-Forwarded-For:",),
    ],
)
@pytest.mark.parametrize("host", [OWN, PUBLIC])
def test_a_page_behind_a_local_proxy_reads_nothing_without_a_token(node, tokens, host, fields):
    status, detail = answer(node, "GET /v1/runs", host, *fields)
    assert status in (401, 403)
    assert "token" in detail
    assert (
        answer(node, "GET /v1/runs", host, *fields, f"Authorization: Bearer {tokens['read']}")[0]
        == 200
    )


def test_a_program_on_this_machine_keeps_its_rights(node, tokens):
    assert answer(node, "GET /v1/runs", OWN)[0] == 200
    assert answer(node, "POST /startrm", OWN, body=BODY)[0] == 200


@pytest.mark.parametrize(
    ("fields", "expected_status"),
    [
        (["X-Forwarded-For: 10.1.0.2"], 200),
        (["Forwarded: for=10.1.0.2"], 200),
        (['Forwarded: for="10.1.0.2:80", for=127.0.0.1'], 200),
        (["X-Forwarded-For: 192.0.2.7"], 401),
        # forged by the client: the proxy adds its entry at the end
        (["X-Forwarded-For: 10.1.0.2, 192.0.2.7"], 401),
        (["X-Forwarded-For: 10.1.0.2", "X-Forwarded-For: 192.0.2.7"], 401),
        (["X-Forwarded-For: 192.0.2.7", "Forwarded: for=10.1.0.2"], 401),
        (["Forwarded: for=192.0.2.7", "X-Forwarded-For: 10.1.0.2"], 401),
        (["X-Forwarded-For: 10.1.0.2, unknown"], 401),
        (["X-Real-IP: 10.1.0.2"], 401),
        (["X-Forwarded_For: 10.1.0.2", "X-Forwarded-For: 192.0.2.7"], 401),
    ],
)
def test_a_trusted_proxy_vouches_for_the_address_of_its_client(
    node, tokens, fields, expected_status
):
    assert answer(node, "POST /startrm", PUBLIC, *fields, body=BODY)[0] == expected_status


@pytest.mark.parametrize(
    ("origin", "expected_status"),
    [
        ("https://fractal.example", 202),
        ("http://fractal.example", 421),
        ("https://fractal.example:8443", 421),
        ("http://localhost:8080", 421),
        ("null", 421),
    ],
)
def test_only_a_page_of_the_public_url_may_use_a_token_through_the_proxy(
    node, tokens, origin, expected_status
):
    fields = [f"Origin: {origin}", "X-Forwarded-For: 192.0.2.7"]
    token = f"Authorization: Bearer {tokens['trigger']}"
    line = "POST /v1/flows/1/runs"
    assert answer(node, line, PUBLIC, *fields, token, body=b"1")[0] == expected_status


def test_a_request_for_the_public_url_needs_a_token_even_without_a_header_of_the_proxy(
    node, tokens
):
    assert answer(node, "GET /v1/runs", PUBLIC)[0] == 401
    assert answer(node, "GET /v1/runs", OWN, "Origin: https://fractal.example")[0] == 401
    assert answer(node, "GET http://fractal.example/v1/runs", OWN)[0] == 401


def test_a_client_above_the_rate_of_peers_gets_429_until_it_is_slower(tmp_path):
    components = Components()
    node = NodeProcess(tmp_path, components=components.port, mode="api")
    node.edit(
        "comm",
        rest__trusted_proxies=[HOST],
        rest__trusted_peers=["10.1.0.0/24"],
        rest__peer_rate=1,
    )
    node.start()

    def trigger(client: str):
        return node.trigger(X_Forwarded_For=client)

    status, headers, problem = 200, {}, {}
    while status == 200:  # about ten requests are allowed at once
        status, headers, problem = trigger("10.1.0.2")
    assert (status, problem["type"]) == (429, "urn:fractal-rm:rate-limited")
    assert headers["retry-after"] == "1"
    assert "10.1.0.2" in problem["detail"]
    assert trigger("10.1.0.3")[0] == 200
    assert node.trigger()[0] == 200  # a program on this machine has no limit
    rest = next(each for each in node.get("/readyz")[2]["checks"] if each["name"] == "rest")
    assert "rate-limited: 1" in rest["text"]
    while trigger("10.1.0.2")[0] == 429:
        pass
    assert node.stop() == 0
    components.stop()
