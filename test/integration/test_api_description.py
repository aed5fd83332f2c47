"""The API against its own description: schemathesis sends what the description allows, and more.

Every answer must be documented, with the content that the description says, and none may be a fault
of the program. The requests are the same each time.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import msgspec
import pytest

from components import Components
from fractal_rm.config.token_file import TokenFile
from fractal_rm.domain.access import Scope
from fractal_rm.domain.tokens import Token, digest_of
from fractal_rm.web.openapi.document import operations
from nodes import HOST, NodeProcess

pytestmark = pytest.mark.slow
# A stream does not end. A drained node refuses triggers with 503: see test_operators. Whether all
# texts of a form are accepted is not tested: only the node knows which cursors it has given.
LEFT_OUT = (
    "--exclude-path", "/v1/events", "--exclude-path", "/v1/node/draining",
    "--exclude-checks", "positive_data_acceptance",
)  # fmt: skip


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    components = Components()
    process = NodeProcess(tmp_path_factory.mktemp("api"), components=components.port, mode="api")
    process.start()
    with TokenFile(process.state).changing() as tokens:
        tokens += [Token(scope.value, digest_of(scope.value), [scope], 0) for scope in Scope]
    yield process
    assert process.stop() == 0
    components.stop()


def check_with_schemathesis(node, folder, *words: str, config: str = "", examples: int) -> None:
    (folder / "schemathesis.toml").write_text(config)
    result = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli",
            "--config-file", folder / "schemathesis.toml",
            "run", f"http://{HOST}:{node.rest}/schema",
            "--generation-deterministic",
            "--max-examples", str(examples), "--continue-on-failure", "--no-color",
            "--request-timeout", "20", *LEFT_OUT, *words,
        ],
        capture_output=True, text=True, timeout=110, cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-20_000:] + result.stderr
    assert "No issues found" in result.stdout or "passed" in result.stdout


def test_an_admin_gets_only_documented_answers(node, tmp_path):
    run = node.trigger("1", Prefer="wait=30")[2]["run"]
    config = f'[parameters]\n"path.run_id" = "{run}"\n"path.flow_id" = "2"\n'
    token = ("--header", "Authorization: Bearer admin")
    phases = ("--phases", "examples,coverage,fuzzing")
    check_with_schemathesis(node, tmp_path, *token, *phases, config=config, examples=3)


def test_a_client_without_a_token_gets_only_documented_answers(node, tmp_path):
    check_with_schemathesis(node, tmp_path, "--phases", "examples,fuzzing", examples=4)


# --- the document itself --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document(node):
    return node.get("/schema").body


def routes_in_source(node) -> set[tuple[str, str]]:
    """Method and path of every route, as the handlers name them."""
    from pathlib import Path

    from fractal_rm.web import api

    found = set()
    for file in Path(api.__file__).parent.glob("*.py"):
        text = file.read_text()
        for method, paths in re.findall(r"@(get|put|post)\((\[[^\]]*\]|\"[^\"]*\")", text):
            found |= {(method, path) for path in re.findall(r'"([^"]*)"', paths)}
        for path, methods in re.findall(r'@route\("([^"]*)", http_method=\[([^\]]*)\]', text):
            found |= {(each.lower(), path) for each in re.findall(r'"([A-Z]+)"', methods)}
    return {(method, re.sub(r":str\}", "}", path)) for method, path in found}


def test_every_route_is_described_and_every_description_is_a_route(node, document):
    described = {(method, path) for path, item in document["paths"].items() for method in item}
    of_endpoint = {("get", "/startrm"), ("post", "/startrm")}
    not_described = {("get", "/schema/openapi.json")}
    # The path of joining is a constant.
    assert routes_in_source(node) | of_endpoint | {("post", "/v1/pair")} == (
        described | not_described
    )


def test_every_operation_has_a_summary_a_name_and_examples(document):
    names = []
    for path, item in document["paths"].items():
        for operation in item.values():
            names.append(operation["operationId"])
            assert operation["summary"], path
            body = operation.get("requestBody", {"content": {}})
            for content in body["content"].values():
                assert "example" in content, path
    assert len(names) == len(set(names))


def test_every_example_has_the_form_that_is_described():
    for operation in operations("/startrm"):
        for answer in operation.answers:
            if answer.kind is not None and answer.example is not None and answer.kind is not str:
                encoded = json.dumps(answer.example).encode()
                msgspec.json.decode(encoded, type=answer.kind)
        if operation.body is not None:
            msgspec.json.decode(
                json.dumps(operation.body.example).encode(), type=operation.body.kind
            )


def test_every_problem_is_described_with_its_content_type(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for status, response in operation["responses"].items():
                if int(status) < 400 or (path == "/readyz" and status == "503"):
                    continue
                name = response["$ref"].rpartition("/")[2]
                content = document["components"]["responses"][name]["content"]
                assert list(content) == ["application/problem+json"], (method, path, status)
