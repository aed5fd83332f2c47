"""The example and the picture in docs/how-to/edit-flows.md are correct."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fractal_rm.flowlang import compile_flows
from fractal_rm.flowlang.format import format_flows
from fractal_rm.pictures.svg import svg

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "how-to" / "edit-flows.md").read_text()
COMPONENTS = {"camera": ("frame",), "detector": ("1",), "actuator": ("1", "2")}


def example() -> str:
    match = re.search(r"^```flow\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert match is not None
    return match[1]


def test_the_picture_shows_the_example():
    flows, findings = compile_flows(example(), COMPONENTS)
    assert [finding.render() for finding in findings] == []
    assert (DOCS / "how-to" / "inspect-a-frame.svg").read_text() == svg(flows["1"])


def test_the_example_is_already_formatted():
    assert format_flows(example()) == example()


def test_the_editor_extension_names_existing_files():
    package = json.loads((DOCS / "editors" / "package.json").read_text())
    (grammar,) = package["contributes"]["grammars"]
    (language,) = package["contributes"]["languages"]
    grammar_file = json.loads((DOCS / "editors" / grammar["path"]).read_text())
    assert grammar_file["scopeName"] == grammar["scopeName"]
    assert language["filenames"] == grammar_file["fileTypes"]
    json.loads((DOCS / "editors" / language["configuration"]).read_text())
