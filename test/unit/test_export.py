"""The export of a flow as Arazzo. Extensions describe what Arazzo cannot express."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fractal_rm.config.model import Component, Endpoint
from fractal_rm.domain.call import Origin, route
from fractal_rm.domain.flow import Flow
from fractal_rm.export.arazzo import CannotExport, export_arazzo
from fractal_rm.flowlang import compile_flows

FILE = """\
1 inspect a frame
ON factory/+/frame
DEADLINE 5s
TO camera frame
GET
  AS frame
  TIMEOUT 800ms
  RETRY 3 EVERY 100ms
WAIT 2s
TO detector 1
POST JSON {"image": frame.data[0].x, "line": payload.line, "n": [1, payload]}
  AS found
  EXPECT found.score != null and status(found) in [200, 201]
  HEADER X-Seen header(frame, "ETag")
  QUERY model "small"
PUBLISH alerts payload
TO actuator 1
POST found.box payload
  WHEN found.score > 0.8
  UNDO 2 frame
PUT RAW item
  FOREACH found.boxes
  LIMIT 4
RUN 2 result3
  AS printed
REPLY printed

2 print
ERRORS continue
TO camera frame
GET
POST result1."a[?x == `1`]"
"""
KNOWN = {"camera": ("frame",), "detector": ("1",), "actuator": ("1", "2"), "a b": ("x/y", "x-y")}


def component(name: str, *endpoints: str) -> Component:
    origin = Origin("http", "127.0.0.1", 8000)
    endpoints = {
        each: Endpoint(
            each,
            route(origin, "GET", f"/{name[0]}/{each}?key=v"),
            route(origin, "POST", f"/{name[0]}/{each}?key=v"),
        )
        for each in endpoints
    }
    return Component(name, endpoints)


COMPONENTS = {name: component(name, *endpoints) for name, endpoints in KNOWN.items()}


def flows_of(text: str) -> dict[str, Flow]:
    flows, findings = compile_flows(text, KNOWN)
    assert [f.render() for f in findings if f.level == "error"] == []
    return flows


def exported(text: str = FILE, flow: str = "1") -> dict[str, Any]:
    flows = flows_of(text)
    return export_arazzo(flows[flow], flows, COMPONENTS)


DOCUMENTS = exported()
DOCUMENT = DOCUMENTS["flow-1.arazzo.json"]
FIRST, SECOND = DOCUMENT["workflows"]


def step(name: str, workflow: dict[str, Any] = FIRST) -> dict[str, Any]:
    return next(each for each in workflow["steps"] if each["stepId"] == name)


def test_the_flow_and_the_flows_that_it_runs_are_workflows():
    assert DOCUMENT["arazzo"] == "1.0.1"
    assert [each["workflowId"] for each in DOCUMENT["workflows"]] == ["flow-1", "flow-2"]
    assert step("printed")["workflowId"] == "flow-2"
    assert step("printed")["parameters"] == [
        {"name": "payload", "value": "$steps.call-3.outputs.result"}
    ]


def test_calls_are_steps_in_their_order_with_their_bodies():
    assert [each["stepId"] for each in FIRST["steps"]] == [
        "frame", "found", "call-3", "call-4", "printed",
    ]  # fmt: skip
    assert step("found")["requestBody"] == {
        "contentType": "application/json",
        "payload": {
            "image": "$steps.frame.outputs.data-0-x",
            "line": "$inputs.payload-line",
            "n": [1, "$inputs.payload"],
        },
    }
    assert step("frame")["outputs"]["data-0-x"] == "$response.body#/data/0/x"
    assert step("call-3")["requestBody"]["payload"] == {
        "payload": ["$steps.found.outputs.box", "$inputs.payload"]
    }
    assert "requestBody" not in step("frame")


def test_headers_parameters_success_criteria_and_retries_are_exported():
    assert step("found")["parameters"] == [
        {"name": "key", "in": "query", "value": "v"},
        {"name": "model", "in": "query", "value": "small"},
        {"name": "X-Seen", "in": "header", "value": "$steps.frame.outputs.header-etag"},
    ]
    assert step("found")["successCriteria"] == [
        {
            "condition": "($response.body#/score != null) && "
            "(($statusCode == 200 || $statusCode == 201))"
        },
    ]
    assert step("frame")["successCriteria"] == [{"condition": "$statusCode < 300"}]
    assert step("frame")["onFailure"] == [
        {"name": "retry", "type": "retry", "retryAfter": 0.1, "retryLimit": 3}
    ]


def test_an_on_failure_action_is_exported_for_the_setting_errors_continue():
    assert [each["onFailure"] for each in SECOND["steps"]] == [
        [{"name": "continue", "type": "goto", "stepId": "call-2"}],
        [{"name": "continue", "type": "end"}],
    ]


def test_the_reply_of_a_flow_is_the_output_of_its_workflow():
    assert FIRST["outputs"] == {"reply": "$steps.printed.outputs.result"}
    assert SECOND["outputs"] == {"reply": "$steps.call-2.outputs.result"}
    assert step("printed")["outputs"] == {"result": "$outputs.reply"}


def test_extensions_have_the_parts_of_the_flow_that_arazzo_cannot_express():
    assert step("frame")["x-fractal-timeout-ms"] == 800
    assert step("found")["x-fractal-before"] == ["WAIT 2s"]
    assert step("call-3")["x-fractal-before"] == ["PUBLISH alerts payload"]
    assert step("call-3")["x-fractal-when"] == "found.score > 0.8"
    assert step("call-3")["x-fractal-undo"] == "POST actuator 2 frame"
    assert step("call-4")["x-fractal-foreach"] == "found.boxes, 4 at once"
    assert step("call-4")["x-fractal-sends"] == "RAW item"
    assert step("printed")["x-fractal-after"] == ["REPLY printed"]
    assert FIRST["x-fractal-settings"] == {"DEADLINE": "5s"}
    assert FIRST["x-fractal-begins-with"] == ["trigger for flow 1", "ON factory/+/frame"]
    assert step("call-2", SECOND)["x-fractal-sends"] == 'result1."a[?x == `1`]"'
    assert FIRST["inputs"]["properties"]["payload-line"]["x-fractal-from"] == "payload.line"


def test_dataflow_order_is_exported_as_the_steps_that_each_step_needs():
    text = "1\nORDER dataflow\nTO camera frame\nGET\nGET\nPOST result1 result2\n"
    (workflow,) = exported(text)["flow-1.arazzo.json"]["workflows"]
    assert [each["x-fractal-needs"] for each in workflow["steps"]] == [[], [], ["call-1", "call-2"]]


def test_every_operation_of_a_workflow_is_in_an_exported_api_description():
    sources = {each["name"]: each["url"] for each in DOCUMENT["sourceDescriptions"]}
    assert sorted(sources) == ["actuator", "camera", "detector"]
    for workflow in DOCUMENT["workflows"]:
        for each in workflow["steps"]:
            if "operationId" in each:
                _, source, operation = each["operationId"].split(".")
                api = DOCUMENTS[sources[source].removeprefix("./")]
                assert api["servers"] == [{"url": "http://127.0.0.1:8000"}]
                operation_ids = [
                    o["operationId"] for p in api["paths"].values() for o in p.values()
                ]
                assert operation_ids.count(operation) == 1


def test_operations_with_equal_names_get_a_number():
    text = "1\nTO a||b x/y\nGET\nTO a||b x-y\nGET\n".replace("a||b", "a/b")
    components = {"a/b": component("a/b", "x/y", "x-y")}
    flows, _ = compile_flows(text, {"a/b": ("x/y", "x-y")})
    documents = export_arazzo(flows["1"], flows, components)
    steps = documents["flow-1.arazzo.json"]["workflows"][0]["steps"]
    assert [each["operationId"] for each in steps] == [
        "$sourceDescriptions.a-b.get-x-y", "$sourceDescriptions.a-b.get-x-y-2",
    ]  # fmt: skip


def test_every_name_is_valid_in_arazzo():
    name = re.compile(r"[A-Za-z0-9_-]+")
    for workflow in DOCUMENT["workflows"]:
        assert name.fullmatch(workflow["workflowId"])
        assert all(name.fullmatch(each["stepId"]) for each in workflow["steps"])
        assert all(name.fullmatch(each) for each in workflow["inputs"]["properties"])
    assert all(name.fullmatch(each["name"]) for each in DOCUMENT["sourceDescriptions"])


@pytest.mark.parametrize("text", ["1\nWAIT 1s\n", "1\nRUN 2\n\n2\nWAIT 1s\n"])
def test_a_flow_without_calls_cannot_be_exported(text):
    with pytest.raises(CannotExport, match="at least one"):
        exported(text)
