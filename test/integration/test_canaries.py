"""Secrets are in nothing that a node shows.

That is: its log with all details, answers over HTTP, its pages, metrics, traces, commands, cases,
backups.
"""

from __future__ import annotations

import base64
import json
import tarfile
from urllib.request import urlopen

import pytest

from fractal_rm.domain.state import State
from nodes import wait_until
from page_list import addresses_of, all_routes
from visitors import Visitor

HEADER = "canary-header-5d20"
FILE = "canary-file-81c4"
BASIC = base64.b64encode(b"user:canary-basic-3f7e").decode()
BROKER = "canary-broker-a09b"
FIELD = "canary-field-c6e1"

FLOWS = """\
11
MASK person.name
TO component1 1
POST payload
  AS first
  HEADER X-Line payload.line
TO component1 2
POST JSON {"person": payload.person, "again": first}
REPLY JSON {"person": payload.person}

12
MASK person.name
ERRORS stop
TO component1 1
POST payload
TO component2 1
POST payload

13
MASK person.name
TO component1 1
POST payload."join(' ', person)"

14
KEEP none
TO component2 1
POST payload
"""
PAYLOAD = {"person": {"name": FIELD}, "line": "4"}


def echo(_handler, body: bytes):
    return 200, body


def echo_as_error(_handler, body: bytes):
    return 500, b"no: " + body


@pytest.fixture
def node(make, components, mosquitto):
    """A node whose configuration refers to secrets, and the token of a client that may only read.

    Its runs have succeeded and failed with a secret in a field of their payloads.
    """
    components.answers.update({"/endpoint1": echo, "/endpoint2": echo})
    traces: list[bytes] = []
    node = make(mode="up", broker=mosquitto.port)
    secret_file = node.config / "secret"
    secret_file.write_text(FILE)
    endpoints = {"1": "endpoint1", "2": "endpoint2"}
    target = {"protocol": "http", "ip": "127.0.0.1", "port": components.port}
    node.write("components", {
        "component1": {"config": {**target, "endpoints": endpoints, "headers": {
            "X-Secret": "${env:CANARY_HEADER}", "Authorization": "Basic ${env:CANARY_BASIC}"}}},
        "component2": {"config": {**target, "endpoints": {"1": "failing"},
                                  "token": f"${{file:{secret_file}}}"}},
    })  # fmt: skip
    components.answers["/failing"] = echo_as_error
    components.answers["/v1/traces"] = lambda _handler, body: (200, traces.append(body) or b"")
    node.edit("comm", mqtt__username="node", mqtt__password="${env:CANARY_BROKER}",
              log__level="debug", traces__endpoint=f"http://127.0.0.1:{components.port}/v1/traces",
              traces__sample=1.0)  # fmt: skip
    (node.config / "flows.conf").write_text(FLOWS)
    node.start(CANARY_HEADER=HEADER, CANARY_BASIC=BASIC, CANARY_BROKER=BROKER)
    node.wait_connected()
    for flow in ("11", "12", "13", "14"):
        node.outcome(flow, payload=PAYLOAD)
    node.trigger("11", {"person": {"name": FIELD}}, Content_Type="text/plain")
    wait_until(lambda: all(run.state.final for run in node.runs()))
    node.traces = traces
    return node


def test_secrets_are_in_nothing_that_a_node_shows(node, monkeypatch):
    for name, value in (("HEADER", HEADER), ("BASIC", BASIC), ("BROKER", BROKER)):
        monkeypatch.setenv(f"CANARY_{name}", value)
    token = node.command("token", "new", "reader", "--scope", "read").stdout.split()
    token = next(word for word in token if word.startswith("frm_"))
    secrets = {HEADER, FILE, BASIC, "canary-basic-3f7e", BROKER, FIELD, token}
    shown: dict[str, str] = {}
    runs = node.runs()
    assert {run.state for run in runs} >= {State.SUCCEEDED, State.FAILED}
    for authorization in ({}, {"Authorization": f"Bearer {token}"}):
        for path in (
            "/livez", "/readyz", "/v1/node", "/v1/runs", "/v1/flows", "/v1/status", "/v1/failures",
            "/v1/dead", "/v1/components", "/v1/config", "/v1/nodes",
            *(f"/v1/runs/{run.id}" for run in runs),
        ):  # fmt: skip
            answer = node.request("GET", path, **authorization)
            assert answer.status in (200, 503), (path, answer)
            shown[f"GET {path} {bool(authorization)}"] = json.dumps(answer.body)
        values = {"run_id": [run.id for run in runs], "flow_id": ["11", "12", "13", "14"],
                  "name": ["component1", "component2", "payload", "first", "result1"],
                  "file": [path.name for path in node.config.glob("*.conf")]}  # fmt: skip
        visitor = Visitor(node.rest, **authorization)
        for route in all_routes():
            for path in addresses_of(route, values):
                page = visitor.read(path)
                assert page.status < 500, path
                shown[f"page {path} {bool(authorization)}"] = page.text + str(page.headers)
    with urlopen(f"http://127.0.0.1:{node.rest}/metrics") as metrics:
        shown["GET /metrics"] = metrics.read().decode()
    for words in (
        ["runs", "list"], ["runs", "list", "--json"], ["audit"], ["check-files"], ["dead", "list"],
        ["components"], ["nodes"], ["config", "history"], ["config", "diff"], ["journal", "check"],
        ["flows", "list"], ["token", "list"], ["failures"],
        *(["runs", "show", run.id] for run in runs),
        *(["runs", "show", run.id, "--json"] for run in runs),
        *(["runs", "why", run.id] for run in runs),
        *(["runs", "record", run.id] for run in runs),
    ):  # fmt: skip
        done = node.command(*words)
        shown[" ".join(words)] = done.stdout + done.stderr
    (node.config / "components.conf").write_text(
        (node.config / "components.conf").read_text().replace('"X-Secret"', '"X-Secrt"')[:-3]
    )
    shown["check"] = node.command("check").stdout + node.command("check").stderr
    backup = node.folder / "backup.tar"
    node.command("backup", str(backup))
    with tarfile.open(backup) as tar:
        for member in tar:
            if member.isfile():
                content = tar.extractfile(member).read()
                shown[f"backup: {member.name}"] = content.decode("latin-1")
    node.stop()
    shown["log"] = node.log
    shown["traces"] = b"".join(node.traces).decode("latin-1")
    assert "component1" in shown["traces"], "the receiver got spans"
    found = [
        f"{secret} in {where}: {text[max(0, text.index(secret) - 300) : text.index(secret) + 50]}"
        for where, text in shown.items()
        for secret in secrets
        if secret in text
    ]
    assert found == [], "\n".join(found)
