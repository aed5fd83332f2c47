"""The flow language: the flows of a flows.conf, and the findings about wrong text."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.expression import Item, Literal, ObjectOf, Payload, Result
from fractal_rm.domain.findings import Level
from fractal_rm.domain.flow import (
    Call,
    CatchUp,
    Content,
    Cron,
    Durability,
    Flow,
    ForEach,
    Method,
    Order,
    Publish,
    QueueSettings,
    Reply,
    StartSettings,
    SubFlow,
    Undo,
    Wait,
)
from fractal_rm.domain.rate import Rate
from fractal_rm.flowlang import compile_flows
from fractal_rm.flowlang.modifiers import MODIFIERS
from fractal_rm.flowlang.words import MODIFIER_KEYWORDS

KNOWN = {"camera": ("1", "2"), "detector": ("1",)}

ORIGINAL = """\
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


def codes_and_places(text: str) -> list[tuple[str, int, int]]:
    """The codes of all findings with their lines and columns."""
    _, findings = compile_flows(text, KNOWN)
    return [(finding.code, finding.place.line, finding.place.column) for finding in findings]


def without_lines(flows: dict[str, Flow]) -> list[tuple[object, ...]]:
    return [
        (f.id, f.title, [(c.number, c.component, c.endpoint, c.method, c.items) for c in f.steps])
        for f in flows.values()
    ]


def test_flows_of_the_original_become_calls_in_order():
    assert flows_of(ORIGINAL) == {
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
        ORIGINAL.replace("\n", "\r\n"),
        "\ufeff" + ORIGINAL,
        "# about this file\n" + ORIGINAL,
        ORIGINAL.replace("\n\n", "\n\n\n\n"),
        "\n\n" + ORIGINAL + "\n\n\n",
        ORIGINAL.replace("TO", "\tTO").replace("POST", "    POST"),
        ORIGINAL.replace("TO camera 1", "TO   camera\t1   "),
        ORIGINAL.replace("GET", "# a comment inside\nGET"),
        ORIGINAL.replace("GET", "   # an indented comment\nGET"),
        ORIGINAL.rstrip("\n"),
    ],
)
def test_white_space_and_comments_do_not_change_flows(changed):
    assert without_lines(flows_of(changed)) == without_lines(flows_of(ORIGINAL))


def test_a_flow_may_have_a_title():
    assert flows_of("12 inspect a frame\nTO camera 1\nGET\n")["12"].title == "inspect a frame"


def test_the_setting_durable_is_read():
    flows = flows_of("1\nDURABLE step\nTO camera 1\nGET\n\n2\nTO camera 1\nGET\n")
    assert [flow.durable for flow in flows.values()] == [Durability.STEP, Durability.ACCEPT]


def steps_of(text: str) -> tuple[object, ...]:
    """The steps of a flow with these lines, which can run flow 2."""
    return flows_of(f"1\nTO camera 1\n{text}\n\n2\nTO camera 1\nGET\n")["1"].steps


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("ON factory/+/frame", StartSettings(("factory/+/frame",))),
        ("ON a\nON b/#", StartSettings(("a", "b/#"))),
        ('ON "#"\nON "line 3/frame"', StartSettings(("#", "line 3/frame"))),
        ("ON $share/nodes/frames/#", StartSettings(("$share/nodes/frames/#",))),
        ("EVERY 30s", StartSettings(every_ms=30_000)),
        ('CRON "0 6 * * 1-5" Europe/Rome', StartSettings(cron=Cron("0 6 * * 1-5", "Europe/Rome"))),
        ('CRON "0\t6 * *\t*"\tEurope/Rome', StartSettings(cron=Cron("0 6 * * *", "Europe/Rome"))),
        ('CRON "0 6 * JAN MON-FRI"', StartSettings(cron=Cron("0 6 * JAN MON-FRI"))),
        ('CRON "*/15 * * * *"\nCATCHUP all', StartSettings(cron=Cron("*/15 * * * *"),
                                                   catch_up=CatchUp.ALL)),
        ("CATCHUP none\nEVERY 1h", StartSettings(every_ms=3_600_000, catch_up=CatchUp.NONE)),
    ],
)  # fmt: skip
def test_topics_and_schedules_are_read(lines, expected):
    flow = flows_of(f"1\n{lines}\nTO camera 1\nGET\n")["1"]
    assert flow.starts == expected
    assert flow.queueing is msgspec.UNSET


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("LIMIT 4", QueueSettings(limit=4)),
        ("LIMIT 10/s", QueueSettings(rate=Rate(10))),
        ("LIMIT 4 90/min # a", QueueSettings(limit=4, rate=Rate(90, "min"))),
        ("PRIORITY 0", QueueSettings(priority=0)),
        ("STALE 10s\nLATEST machine.id", QueueSettings(stale_ms=10_000, latest="machine.id")),
        ('LATEST "payload.id"', QueueSettings(latest="payload.id")),
    ],
)
def test_the_settings_of_the_queue_are_read(lines, expected):
    flow = flows_of(f"1\n{lines}\nTO camera 1\nGET\n")["1"]
    assert flow.queueing == expected
    assert flow.starts is msgspec.UNSET


def test_the_setting_order_is_read():
    assert flows_of("1\nORDER dataflow\nTO camera 1\nGET\n")["1"].order is Order.DATAFLOW


def test_only_calls_and_sub_flows_have_numbers():
    text = (
        "GET\nWAIT 5s\nRUN 2 result1\n  AS sub\nPUBLISH a payload\nPOST sub result2\nREPLY result3"
    )
    assert steps_of(text) == (
        Call(1, "camera", "1", Method.GET, (), 3),
        Wait(5000, line=4),
        SubFlow(2, "2", Content((Result(1),)), "sub", line=5),
        Publish("a", Content((Payload(),)), line=7),
        Call(3, "camera", "1", Method.POST, (Result(2), Result(2)), 8),
        Reply(Content((Result(3),)), line=9),
    )


def test_content_is_items_a_template_or_a_raw_value():
    text = 'RUN 2\nRUN 2 JSON {"a": payload.b}\nPUBLISH "a b" RAW payload.text\nREPLY JSON 5'
    assert [step.content for step in steps_of(text)] == [
        Content(),
        Content(json=ObjectOf((("a", Payload("b")),))),
        Content(raw=Payload("text")),
        Content(json=Literal(5)),
    ]


def test_every_instruction_can_have_a_condition():
    text = "\n".join(
        f"{step}\n  WHEN payload.again"
        for step in ("GET", "RUN 1", "WAIT 1s", "PUBLISH a payload", "REPLY payload")
    )
    call, *others = steps_of(text)
    assert call.options.when == Payload("again")
    assert [step.when for step in others] == [Payload("again")] * 4


def test_instructions_other_than_calls_need_no_target():
    flow = flows_of("1\nRUN 2 payload\nREPLY result1\n\n2\nWAIT 1ms\n")["1"]
    assert [type(step) for step in flow.steps] == [SubFlow, Reply]


def test_the_modifier_foreach_is_read():
    text = (
        "GET\nPOST item.box\n  WHEN item.ok\n  LIMIT 4\n  FOREACH result1.boxes\n  AS all\nPOST all"
    )
    _, call, next_call = steps_of(text)
    assert call.items == (Item("box"),)
    assert call.options.foreach == ForEach(Result(1, "boxes"), 4)
    assert next_call.items == (Result(2),)
    assert steps_of("POST item\n  FOREACH payload")[0].options.foreach == ForEach(Payload(), 1)


def test_an_undo_can_use_the_answer_of_its_own_call():
    (call,) = steps_of("POST payload\n  UNDO 2 result1.id made payload\n  AS made")
    assert call.options.undo == Undo("2", (Result(1, "id"), Result(1), Payload()))


def test_a_setting_and_a_modifier_may_have_the_same_keyword():
    flow = flows_of("1\nLIMIT 3\nTO camera 1\nPOST item\n  FOREACH payload\n  LIMIT 2\n")["1"]
    assert (flow.queueing.limit, flow.steps[0].options.foreach.max_parallel) == (3, 2)


@pytest.mark.parametrize(
    "text",
    [
        "RUN 1\n  WHEN payload.again\n",  # the cycle may end
        "GET\n  WHEN payload.a\nPOST result1\n  WHEN payload.a and payload.b\n",
        "GET\n  WHEN payload.a\nPOST\n  WHEN result1.b == 1 or status(result1) == 200\n",
        "GET\n  WHEN true\nPOST result1\n",
        "GET\n  FOREACH payload.a\n  WHEN item.b\nPOST result1\n",  # the result is always a list
        "WAIT 4s\nWAIT 2s\n  WHEN payload.slow\n",  # the second WAIT may be skipped
    ],
)
def test_a_problem_that_is_possible_but_not_certain_gives_no_warning(text):
    assert codes_and_places(f"1\nDEADLINE 5s\nTO camera 1\n{text}") == []


def test_the_least_time_in_dataflow_order_is_the_time_of_the_longest_chain():
    steps = "RUN 2\nRUN 2\nWAIT 1s\nRUN 2\nRUN 2 result3"
    flow = f"1\nDEADLINE {{}}\nORDER dataflow\n{steps}\n\n2\nWAIT 2s\n"
    assert codes_and_places(flow.format("7001ms")) == []
    assert codes_and_places(flow.format("7s")) == [("F135", 2, 10)]
    assert codes_and_places(flow.format("7001ms").replace("dataflow", "listed")) == [
        ("F135", 2, 10)
    ]


def test_the_result_of_a_foreach_that_may_be_skipped_may_be_null():
    text = "1\nTO camera 1\nGET\n  FOREACH payload.a\n  WHEN payload.b\nPOST result1\n"
    assert codes_and_places(text) == [("F133", 6, 6)]


@pytest.mark.parametrize(
    ("when", "codes"),
    [("", ["F137"]), ("  WHEN 1 == 1\n", ["F137"]), ("  WHEN payload.n < 3\n", [])],
)
def test_a_flow_whose_own_message_always_starts_it_again_has_a_warning(when, codes):
    text = f"1\nON other\nON plant/+\nPUBLISH plant/7 payload\n{when}PUBLISH plant payload\n"
    assert [code for code, _, _ in codes_and_places(text)] == codes


def test_the_least_time_of_a_flow_is_shown_in_the_largest_exact_unit():
    text = "1\nDEADLINE 1s\nWAIT {}\n"

    def help_with(wait: str) -> str:
        _, (finding,) = compile_flows(text.format(wait), {})
        return finding.help

    assert help_with("120s") == "make DEADLINE longer than 2m"
    assert help_with("20.0005h") == "make DEADLINE longer than 72001800ms"


def test_a_chain_of_flows_may_be_very_long():
    count = 5_000
    text = "".join(f"{n}\nRUN {n + 1}\n\n" for n in range(count))
    assert len(flows_of(f"{text}{count}\nWAIT 1s\n")) == count + 1
    assert [code for code, _, _ in codes_and_places(f"{text}{count}\nRUN 0\n")] == ["F129"]


def test_flow_ids_are_compared_as_texts():
    flows = flows_of("1\nTO camera 1\nGET\n\n10\nTO camera 2\nGET\n\n01\nTO detector 1\nGET\n")
    assert [flow.steps[0].endpoint for flow in flows.values()] == ["1", "2", "1"]
    assert list(flows) == ["1", "10", "01"]


def test_a_post_may_have_no_items_and_a_target_may_be_called_twice():
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
def test_an_error_is_found_at_its_place(text, expected):
    assert codes_and_places(text) == expected


def test_all_findings_are_collected_in_the_order_of_the_file():
    text = "GET\n\n1\nTO camra 1\nPOST paylod result9\nSEND\n"
    assert [code for code, _, _ in codes_and_places(text)] == ["F111", "F104", "F107", "F101"]


def test_a_finding_shows_the_line_a_caret_and_the_nearest_known_word():
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


def test_the_modifier_keywords_are_the_keys_of_the_modifiers():
    assert set(MODIFIERS) == MODIFIER_KEYWORDS


@given(st.lists(st.lists(st.sampled_from(["GET", "POST"]), min_size=1, max_size=6), max_size=8))
def test_every_call_of_a_valid_file_is_read(shapes):
    text, calls = "", []
    for number, methods in enumerate(shapes):
        text += f"{number}\nTO camera 1\n"
        for n, method in enumerate(methods):
            text += method + (f" payload result{n}" if method == "POST" and n else "") + "\n"
        text += "\n"
        calls.append(len(methods))
    assert [len(flow.steps) for flow in flows_of(text).values()] == calls
