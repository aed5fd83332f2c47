"""Files in the original's language keep their meaning, and the JSON text of their flows."""

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


def flows_by_the_originals_rules(text: str) -> list[dict[str, object]]:
    """Flows by the original's rules, as an earlier release encoded them, with keys in order."""
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
_between = st.sampled_from(["\n", "\n\n", "\n# TO nothing 1\n\n", "\n \t \n"])
_comments = st.sampled_from(["", "", "", "# GET\n", '  # "what\n'])
_targets = st.sampled_from([(c, e) for c, endpoints in COMPONENTS.items() for e in endpoints])


@st.composite
def files_in_the_originals_language(draw) -> str:
    text = draw(_comments)
    for number in draw(st.lists(st.integers(0, 10**6), unique=True, max_size=4)):
        text += f"{draw(_spaces)}{number}{draw(_titles)}\n"
        calls = 0
        for _ in range(draw(st.integers(0, 3))):
            component, endpoint = draw(_targets)
            text += f"{draw(_spaces)}TO {component}\t{endpoint}{draw(_spaces)}\n{draw(_comments)}"
            for _ in range(draw(st.integers(0, 3))):
                known = st.sampled_from(["payload", *(f"result{n}" for n in range(1, calls + 1))])
                items = draw(st.none() | st.lists(known, max_size=3))
                what = "GET" if items is None else " ".join(["POST", *items])
                text += f"{draw(_spaces)}{what}{draw(_spaces)}\n"
                calls += 1
        text += draw(_between)
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))


@given(files_in_the_originals_language())
def test_a_file_in_the_originals_language_compiles_to_the_same_json_as_before(text):
    flows, findings = compile_flows(text, COMPONENTS)
    assert [f.render() for f in findings if f.code != "F110"] == []
    written = [msgspec.json.encode(flow).decode() for flow in flows.values()]
    as_before = [
        json.dumps(flow, ensure_ascii=False, separators=(",", ":"))
        for flow in flows_by_the_originals_rules(text)
    ]
    assert written == as_before


def test_the_flows_that_the_original_shipped_compile_to_the_same_json_as_before():
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
        written = [json.loads(msgspec.json.encode(flow)) for flow in flows.values()]
        assert written == flows_by_the_originals_rules(text)
        assert all(step.terms is msgspec.UNSET for flow in flows.values() for step in flow.steps)


def test_a_flow_in_the_originals_language_keeps_its_version():
    (flow,) = compile_flows("1 a title\nTO camera 1\nPOST payload\n", COMPONENTS)[0].values()
    assert flow_version(flow) == "a676e98c0897b81b09167fe3"


def test_a_flow_encoded_by_an_earlier_release_is_decoded():
    before = (
        b'{"id":"1","title":"","steps":[{"type":"call","number":1,"component":"a","endpoint":"1",'
        b'"method":"GET","items":[],"line":3}],"line":1,"durable":"accept"}'
    )
    flow = msgspec.json.decode(before, type=Flow)
    assert flow == Flow("1", "", (Call(1, "a", "1", Method.GET, (), 3),), 1)
    assert msgspec.json.encode(flow) == before


def test_the_library_for_schedules_is_imported_only_when_needed():
    program = (
        "import sys; from fractal_rm.flowlang import compile_flows; import fractal_rm.wiring\n"
        "compile_flows('1\\nTO a 1\\nPOST payload\\n  WHEN payload == 1\\n', {'a': ['1']})\n"
        "sys.exit('cronsim' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("comment", ["# a comment", '  # with "a quote', "\t#"])
def test_a_line_may_end_with_a_comment(comment):
    text = f"1 a title {comment}\nTO camera 1 {comment}\nPOST payload\t{comment}\nGET {comment}\n"
    (flow,) = compile_flows(text, COMPONENTS)[0].values()
    assert flow.title == "a title"
    assert [(call.method, len(call.items)) for call in flow.steps] == [
        (Method.POST, 1),
        (Method.GET, 0),
    ]


def test_a_hash_sign_within_a_string_begins_no_comment():
    text = '1\nTO camera 1\nPOST JSON {"a": "x # y \\" # z"} # a comment\n'
    (flow,) = compile_flows(text, COMPONENTS)[0].values()
    assert flow.steps[0].terms.json.value == {"a": 'x # y " # z'}
