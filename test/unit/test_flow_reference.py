"""The examples of docs/reference/flows.md are flows, and no keyword is without one."""

from __future__ import annotations

import re
from pathlib import Path

from fractal_rm.domain.flow import Method
from fractal_rm.flowlang import compile_flows
from fractal_rm.flowlang.parse import SETTINGS
from fractal_rm.flowlang.terms import MODIFIERS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "flows.md"
COMPONENTS = {"camera": ("frame",), "detector": ("1",), "actuator": ("1",)}
EXAMPLES = re.findall(r"^```flow\n(.*?)^```$", REFERENCE.read_text(), re.DOTALL | re.MULTILINE)


def test_every_example_is_a_flow():
    flows, findings = compile_flows("\n".join(EXAMPLES), COMPONENTS)
    assert [finding.render() for finding in findings] == []
    assert len(flows) == len(EXAMPLES)


def test_every_keyword_has_an_example():
    used = {word for example in EXAMPLES for word in re.findall(r"[A-Z]+", example)}
    assert {*MODIFIERS, *SETTINGS, *(method.value for method in Method), "JSON", "RAW"} <= used
