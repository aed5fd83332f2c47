"""A flows.conf of the original keeps its meaning, and its JSON in the journal never changes."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.flow import Call, Flow, Method, flow_version
from fractal_rm.flowlang import compile_flows

COMPONENTS = {
    "camera": ("1", "2"),
    "TIMEOUT": ("GET", "a#"),
    'a"b': ("x#y", "AS"),
    "JSON": ("{", "payload"),
    "RUN": ("FOREACH", "item", "LIMIT"),
    "ON": ("WAIT", '"#"'),
}


def meaning_in_the_original(text: str) -> list[dict[str, object]]:
    """Read flows by the rules of the original.

    Returns the JSON that an earlier release wrote for these flows, with the same order of keys.
    """
    flows: list[dict[str, object]] = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        words = line.split()
        if not words or line.lstrip().startswith("#"):
            continue
        if words[0].isdigit():
            title = line.strip()[len(words[0]) :].strip()
            flows.append({"id": words[0], "title": title, "steps": [], "line": number})
        elif words[0] == "TO":
            target = words[1:]
        else:
            steps = flows[-1]["steps"]
            steps.append({
                "type": "call", "number": len(steps) + 1, "component": target[0],
                "endpoint": target[1], "method": words[0],
                "items": [_item(word) for word in words[1:]], "line": number,
            })  # fmt: skip
    return [{**flow, "durable": "accept"} for flow in flows]


def _item(word: str) -> dict[str, object]:
    if word == "payload":
        return {"type": "payload"}
    return {"type": "result", "number": int(word.removeprefix("result"))}


_spaces = st.sampled_from(["", "", "", "  ", "\t", "      "])
_titles = st.sampled_from(
    ["", " a frame", " 3 of 4", ' the 5" pipe', " POST payload", " x#1", ' "a b" c', " TIMEOUT",
     " ON factory/#", " EVERY 5s", " LIMIT 0", " RUN 7", " RUN RUN", ' REPLY "']
)  # fmt: skip
_between_flows = st.sampled_from(["\n", "\n\n", "\n# TO nobody 1\n\n", "\n \t \n"])
_comments = st.sampled_from(["", "", "", "# GET\n", '  # "what\n'])
_targets = st.sampled_from([(c, e) for c, endpoints in COMPONENTS.items() for e in endpoints])


@st.composite
def original_files(draw) -> str:
    text = draw(_comments)
    for number in draw(st.lists(st.integers(0, 10**6), unique=True, max_size=4)):
        text += f"{draw(_spaces)}{number}{draw(_titles)}\n"
        calls = 0
        for _ in range(draw(st.integers(0, 3))):
            component, endpoint = draw(_targets)
            text += f"{draw(_spaces)}TO {component}\t{endpoint}{draw(_spaces)}\n{draw(_comments)}"
            for _ in range(draw(st.integers(0, 3))):
                item_names = st.sampled_from(
                    ["payload", *(f"result{n}" for n in range(1, calls + 1))]
                )
                items = draw(st.none() | st.lists(item_names, max_size=3))
                instruction = "GET" if items is None else " ".join(["POST", *items])
                text += f"{draw(_spaces)}{instruction}{draw(_spaces)}\n"
                calls += 1
        text += draw(_between_flows)
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))


@given(original_files())
def test_a_file_of_the_original_has_the_same_meaning_and_the_same_json(text):
    flows, findings = compile_flows(text, COMPONENTS)
    assert [f.render() for f in findings if f.code != "F110"] == []
    flow_texts = [msgspec.json.encode(flow).decode() for flow in flows.values()]
    expected_texts = [
        json.dumps(flow, ensure_ascii=False, separators=(",", ":"))
        for flow in meaning_in_the_original(text)
    ]
    assert flow_texts == expected_texts


def test_the_flows_shipped_with_the_original_have_the_same_json():
    text = (
        "1\nTO component1 1\nPOST payload\nTO component2 1\nPOST result1\n"
        "TO component3 1\nPOST result1 result2\n\n"
        "2\nTO component1 2\nGET\nTO component2 1\nPOST result1 payload\n\n"
        "3\nTO component1 2\nGET\nTO component2 2\nGET"
    )
    shipped = {f"component{n}": ("1", "2") for n in (1, 2, 3)}
    for ends in ("\n", "\r\n"):
        flows, findings = compile_flows(text.replace("\n", ends), shipped)
        assert findings == []
        flow_values = [json.loads(msgspec.json.encode(flow)) for flow in flows.values()]
        assert flow_values == meaning_in_the_original(text)
        assert all(step.options is msgspec.UNSET for flow in flows.values() for step in flow.steps)


def only_flow_of(text: str) -> Flow:
    flows, _ = compile_flows(text, COMPONENTS)
    (flow,) = flows.values()
    return flow


def test_a_flow_of_the_original_has_the_same_version():
    flow = only_flow_of("1 a title\nTO camera 1\nPOST payload\n")
    assert flow_version(flow) == "a676e98c0897b81b09167fe3"


def test_the_json_of_an_earlier_release_is_read():
    stored_json = (
        b'{"id":"1","title":"","steps":[{"type":"call","number":1,"component":"a","endpoint":"1",'
        b'"method":"GET","items":[],"line":3}],"line":1,"durable":"accept"}'
    )
    flow = msgspec.json.decode(stored_json, type=Flow)
    assert flow == Flow("1", "", (Call(1, "a", "1", Method.GET, (), 3),), 1)
    assert msgspec.json.encode(flow) == stored_json


@pytest.mark.parametrize("library", ["jmespath", "cronsim", "zoneinfo"])
def test_a_flow_without_paths_and_schedules_does_not_load_their_libraries(library):
    program = (
        "import sys; from fractal_rm.flowlang import compile_flows; import fractal_rm.wiring\n"
        "compile_flows('1\\nTO a 1\\nPOST payload\\n  WHEN payload == 1\\n', {'a': ['1']})\n"
        f"sys.exit('{library}' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("comment", ["# a comment", '  # with "a quote', "\t#"])
def test_a_comment_may_be_at_the_end_of_a_line(comment):
    text = f"1 a title {comment}\nTO camera 1 {comment}\nPOST payload\t{comment}\nGET {comment}\n"
    flow = only_flow_of(text)
    assert flow.title == "a title"
    assert [(call.method, len(call.items)) for call in flow.steps] == [
        (Method.POST, 1),
        (Method.GET, 0),
    ]


def test_a_string_may_contain_the_comment_sign():
    text = '1\nTO camera 1\nPOST JSON {"a": "x # y \\" # z"} # a comment\n'
    flow = only_flow_of(text)
    assert flow.steps[0].options.json.value == {"a": 'x # y " # z'}
