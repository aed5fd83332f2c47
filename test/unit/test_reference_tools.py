"""Every example flow of the language reference can be formatted, drawn and exported."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import msgspec
import pytest
from test_flow_reference import COMPONENTS, EXAMPLES

from fractal_rm.config.model import Component, Endpoint
from fractal_rm.domain.call import Origin, route
from fractal_rm.domain.flow import Flow
from fractal_rm.export.arazzo import CannotExport, export_arazzo
from fractal_rm.flowlang import compile_flows
from fractal_rm.flowlang.format import format_flows
from fractal_rm.pictures.mermaid import mermaid
from fractal_rm.pictures.svg import svg

TEXT = "\n".join(EXAMPLES)
FLOWS, _ = compile_flows(TEXT, COMPONENTS)
ORIGIN = Origin("http", "127.0.0.1", 8000)


def without_lines(flows: dict[str, Flow]) -> list[Flow]:
    replace = msgspec.structs.replace
    return [
        replace(flow, line=0, steps=tuple(replace(step, line=0) for step in flow.steps))
        for flow in flows.values()
    ]


def component(name: str) -> Component:
    get, post = (route(ORIGIN, method, f"/{name}") for method in ("GET", "POST"))
    return Component(name, {each: Endpoint(each, get, post) for each in COMPONENTS[name]})


def test_formatting_keeps_the_meaning_of_the_examples():
    formatted = format_flows(TEXT)
    flows, findings = compile_flows(formatted, COMPONENTS)
    assert [finding.render() for finding in findings] == []
    assert without_lines(flows) == without_lines(FLOWS)
    assert format_flows(formatted) == formatted


@pytest.mark.parametrize("flow", FLOWS.values(), ids=lambda flow: flow.id)
def test_the_examples_can_be_drawn(flow):
    ET.fromstring(svg(flow))
    assert mermaid(flow).startswith("flowchart TD\n")


@pytest.mark.parametrize("flow", FLOWS.values(), ids=lambda flow: flow.id)
def test_the_examples_can_be_exported(flow):
    components = {name: component(name) for name in COMPONENTS}
    try:
        documents = export_arazzo(flow, FLOWS, components)
    except CannotExport:
        assert not any(hasattr(step, "number") for step in flow.steps)
    else:
        json.dumps(documents)
