"""The examples of docs/reference/flows.md are run, and every keyword has an example.

The run of an example must succeed with the payload and the reply below. A comment before the
example may have another case. It has the format of flows.cases.toml without ``case.`` in headers:

    <!-- case
    payload = { line = 3 }
    [expect]
    state = "failed"
    -->
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fractal_rm.cases.read import read_cases
from fractal_rm.cases.run import run_case
from fractal_rm.config.compile import compile_config
from fractal_rm.config.model import Config
from fractal_rm.domain.flow import Method
from fractal_rm.flowlang import compile_flows
from fractal_rm.flowlang.modifiers import MODIFIERS
from fractal_rm.flowlang.parse import SETTINGS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "flows.md"
COMPONENTS = {"camera": ("frame",), "detector": ("1",), "actuator": ("1", "2")}
FOUND = re.findall(
    r"^(?:<!-- case\n([^`]*?)-->\n+)?```flow\n(.*?)^```$",
    REFERENCE.read_text(),
    re.DOTALL | re.MULTILINE,
)
EXAMPLES = [example for _, example in FOUND]
WORDS = ("JSON", "RAW", "RUN", "WAIT", "PUBLISH", "REPLY")
PAYLOAD = {"line": 3, "text": "hello", "again": True, "items": [1, 2]}
REPLY = {"data": "AAEC", "score": 0.9, "box": [1, 2, 3, 4], "boxes": [{"score": 0.95}, {}]}


def config() -> Config:
    """Every example of the page, in one configuration."""
    address = {"protocol": "http", "ip": "127.0.0.1", "port": 6000}
    files = dict.fromkeys(("comm.conf", "load_balancer.conf", "nodes.conf"), "{}")
    files["components.conf"] = json.dumps({
        name: {"config": {**address, "endpoints": {each: f"{name}/{each}" for each in endpoints}}}
        for name, endpoints in COMPONENTS.items()
    })  # fmt: skip
    files["flows.conf"] = "\n".join(EXAMPLES)
    return compile_config(files, Path("/nowhere/config_files"), {}).config


def case_of(example: str, comment: str) -> str:
    """The case of an example as TOML: the lines of its comment, and default values."""
    flow = example.split(maxsplit=1)[0]
    lines = ["[[case]]", f'name = "{flow}"', f'flow = "{flow}"']
    if not re.search(r"^payload\b", comment, re.MULTILINE):
        lines.append(f"payload_json = '{json.dumps(PAYLOAD)}'")
    lines.append(re.sub(r"^(\[{1,2})(?=\w)", r"\1case.", comment, flags=re.MULTILINE))
    lines.append(f"[[case.reply]]\ntext = '{json.dumps(REPLY)}'")
    return "\n".join(lines)


def test_every_example_is_a_flow_without_findings():
    flows, findings = compile_flows("\n".join(EXAMPLES), COMPONENTS)
    assert [finding.render() for finding in findings] == []
    assert len(flows) == len(EXAMPLES) > 0


@pytest.mark.parametrize(
    ("comment", "example"), FOUND, ids=[example.split("\n", 1)[0] for example in EXAMPLES]
)
def test_every_example_ends_as_the_page_says(comment, example):
    configuration = config()
    (case,) = read_cases(case_of(example, comment), configuration)
    assert run_case(case, configuration).differences == ()


def test_every_keyword_has_an_example():
    used = {word for example in EXAMPLES for word in re.findall(r"[A-Z]+", example)}
    assert {*MODIFIERS, *SETTINGS, *(method.value for method in Method), *WORDS} <= used
