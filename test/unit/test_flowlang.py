"""The text of flows.conf: what it means, and what is said about what it cannot mean."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.expression import Payload, Result
from fractal_rm.domain.findings import CODES, Level
from fractal_rm.domain.flow import Call, Durable, Flow, Method
from fractal_rm.flowlang import compile_flows

KNOWN = {"camera": ("1", "2"), "detector": ("1",)}

SEED = """\
1
TO camera 1
POST payload
TO detector 1
POST result1

2
TO camera 2
GET
"""


def flows_of(text: str) -> dict[str, Flow]:
    flows, findings = compile_flows(text, KNOWN)
    assert findings == []
    return flows


def found(text: str) -> list[tuple[str, int, int]]:
    """The codes of all findings with their lines and columns."""
    _, findings = compile_flows(text, KNOWN)
    return [(finding.code, finding.place.line, finding.place.column) for finding in findings]


def without_lines(flows: dict[str, Flow]) -> list[tuple[object, ...]]:
    return [
        (f.id, f.title, [(c.number, c.component, c.endpoint, c.method, c.items) for c in f.steps])
        for f in flows.values()
    ]


def test_the_seed_s_language_becomes_calls_in_order():
    assert flows_of(SEED) == {
        "1": Flow(
            "1",
            "",
            (
                Call(1, "camera", "1", Method.POST, (Payload(),), 3),
                Call(2, "detector", "1", Method.POST, (Result(1),), 5),
            ),
            1,
        ),
        "2": Flow("2", "", (Call(1, "camera", "2", Method.GET, (), 9),), 7),
    }


@pytest.mark.parametrize(
    "changed",
    [
        SEED.replace("\n", "\r\n"),
        "\ufeff" + SEED,
        "# about this file\n" + SEED,
        SEED.replace("\n\n", "\n\n\n\n"),
        "\n\n" + SEED + "\n\n\n",
        SEED.replace("TO", "\tTO").replace("POST", "    POST"),
        SEED.replace("TO camera 1", "TO   camera\t1   "),
        SEED.replace("GET", "# a comment inside\nGET"),
        SEED.replace("GET", "   # an indented comment\nGET"),
        SEED.rstrip("\n"),
    ],
)
def test_white_space_and_comments_change_nothing(changed):
    assert without_lines(flows_of(changed)) == without_lines(flows_of(SEED))


def test_a_flow_may_have_a_title():
    assert flows_of("12 inspect a frame\nTO camera 1\nGET\n")["12"].title == "inspect a frame"


def test_a_flow_says_how_durable_its_steps_are():
    flows = flows_of("1\nDURABLE step\nTO camera 1\nGET\n\n2\nTO camera 1\nGET\n")
    assert [flow.durable for flow in flows.values()] == [Durable.STEP, Durable.ACCEPT]


def test_ids_are_exact():
    flows = flows_of("1\nTO camera 1\nGET\n\n10\nTO camera 2\nGET\n\n01\nTO detector 1\nGET\n")
    assert [flow.steps[0].endpoint for flow in flows.values()] == ["1", "2", "1"]
    assert list(flows) == ["1", "10", "01"]


def test_post_alone_sends_nothing_and_a_target_may_be_called_twice():
    (flow,) = flows_of("1\nTO camera 1\nPOST\nGET\nPOST payload payload result2\n").values()
    assert [call.items for call in flow.steps] == [(), (), (Payload(), Payload(), Result(2))]
    assert {call.component for call in flow.steps} == {"camera"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1\nTO camra 1\nGET\n", [("F104", 2, 4)]),
        ("1\nTO camera 3\nGET\n", [("F105", 2, 11)]),
        ("1\nGET\n", [("F106", 2, 1)]),
        ("1\nTO camera 1\n  POST paylod\n", [("F107", 3, 8)]),
        ("1\nTO camera 1\nPOST result\n", [("F107", 3, 6)]),
        ("1\nTO camera 1\nPOST result0\n", [("F107", 3, 6)]),
        ("1\nTO camera 1\nPOST payloads\n", [("F107", 3, 6)]),
        ("1\nTO camera 1\nPOST result1\n", [("F108", 3, 6)]),
        ("1\nTO camera 1\nPOST\nPOST payload result2\n", [("F108", 4, 14)]),
        ("1\nTO camera 1\nGET payload\n", [("F109", 3, 5)]),
        ("1\nTO camera\nGET\n", [("F103", 2, 1)]),
        ("1\nTO camera 1 2\nGET\n", [("F103", 2, 13)]),
        ("1\n\nTO camera 1\n", [("F110", 1, 1), ("F111", 3, 1)]),
        ("1\nTO camera 1\nGET\n2\nTO camera 1\nGET\n", [("F112", 4, 1)]),
        ("1\nTO camera 1\nDURABLE step\nGET\n", [("F114", 3, 1)]),
        ("1\nDURABLE step\nDURABLE step\nTO camera 1\nGET\n", [("F114", 3, 1)]),
        ("1\nDURABLE steps\nTO camera 1\nGET\n", [("F115", 2, 9)]),
        ("1\nDURABLE\nTO camera 1\nGET\n", [("F115", 2, 1)]),
        ("DURABLE step\n", [("F111", 1, 1)]),
        ("1\nTO camera 1\nGET\n\n1\nTO camera 1\nGET\n", [("F102", 5, 1)]),
        ("1\nto camera 1\nGET\n", [("F101", 2, 1)]),
        ("1a\nTO camera 1\nGET\n", [("F101", 1, 1)]),
        ("flow 1\n", [("F101", 1, 1)]),
        ("one\nTO camera 1\nGET\n", [("F101", 1, 1)]),
        ("1\nTO camera 1\nPSOT payload\nPOST result1\n", [("F101", 3, 1)]),
    ],
)
def test_what_cannot_be_meant_is_pointed_at(text, expected):
    assert found(text) == expected


def test_all_findings_are_gathered_in_the_order_of_the_file():
    text = "GET\n\n1\nTO camra 1\nPOST paylod result9\nSEND\n"
    assert [code for code, _, _ in found(text)] == ["F111", "F104", "F107", "F101"]


def test_a_finding_shows_the_line_a_caret_and_the_nearest_right_word():
    _, (finding,) = compile_flows("1\n\tTO camra 1\n\tGET\n", KNOWN)
    assert finding.render() == (
        'flows.conf:2:5: error[F104]: component "camra" is not in components.conf\n'
        "    \tTO camra 1\n"
        "    \t   ^^^^^\n"
        '  help: did you mean "camera"?'
    )


def test_an_empty_flow_is_a_warning():
    _, (finding,) = compile_flows("1\n", KNOWN)
    assert (finding.code, finding.level) == ("F110", Level.WARNING)


_WORDS = """1 2 TO GET POST PUT DELETE camera detector payload result1 # x JSON RAW AS WHEN EXPECT
    TIMEOUT RETRY EVERY 3 5s HEADER QUERY DEADLINE ERRORS continue found payload.a found."a b" {
    } [ ] ( ) , : " "a" "a": \\ == != < in and or not true null status(found) header(found, . .."""
_words = st.sampled_from([*_WORDS.split(), "", "\t"])
_lines = st.lists(_words, max_size=7).map(" ".join)
_texts = st.lists(_lines | _lines.map("  {}".format), max_size=12).map("\n".join)
_in_a_call = st.sampled_from(
    ["POST ", "POST JSON ", "  WHEN ", "  EXPECT ", "  HEADER a ", "  AS "]
)
_calls = st.lists(st.tuples(_in_a_call, st.text(max_size=30) | _lines).map("".join), max_size=6)
_flows = _calls.map(lambda lines: "\n".join(["1", "TO camera 1", "GET", "  AS found", *lines]))


@given(st.one_of(_texts, _flows, st.text(max_size=200)))
def test_any_text_is_either_understood_or_pointed_at(text):
    flows, findings = compile_flows(text, KNOWN)
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for finding in findings:
        assert finding.code in CODES
        place = finding.place
        assert lines[place.line - 1][place.column - 1 :][: place.width].strip()
    for flow in flows.values():
        if all(finding.level is Level.WARNING for finding in findings):
            assert msgspec.json.decode(msgspec.json.encode(flow), type=Flow) == flow
        assert [call.number for call in flow.steps] == list(range(1, len(flow.steps) + 1))


@given(st.lists(st.lists(st.sampled_from(["GET", "POST"]), min_size=1, max_size=6), max_size=8))
def test_every_well_formed_file_is_read_whole(shapes):
    text, calls = "", []
    for number, methods in enumerate(shapes):
        text += f"{number}\nTO camera 1\n"
        for n, method in enumerate(methods):
            text += method + (f" payload result{n}" if method == "POST" and n else "") + "\n"
        text += "\n"
        calls.append(len(methods))
    assert [len(flow.steps) for flow in flows_of(text).values()] == calls
