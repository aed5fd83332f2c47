"""What the page of a flow says about its steps."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_stage import flows
from fractal_rm.adapters.sqlite.format.faults import shape_of
from fractal_rm.domain.flow import (
    Call,
    CallOptions,
    Flow,
    Method,
    Order,
    Publish,
    SubFlow,
    Wait,
)
from fractal_rm.domain.masking.flow_text import masked_flow_line
from fractal_rm.domain.node_status import ComponentStatus, FlowStatus
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.safe_text import safe_block
from fractal_rm.domain.state import State
from fractal_rm.domain.trial import fields_that_are_missing, payload_to_edit, payload_to_send
from fractal_rm.engine.ports import FailureGroup
from fractal_rm.web.pages.flows.flow_steps import picture_of, steps_of
from steps import flow, get, post

FLOW = flow(
    get(1, "camera frame"),
    post(2, "store records"),
    SubFlow(3, "7"),
    post(4, "store records"),
    Publish("alerts"),
)
IDLE = FlowStatus("9")


def group(reason: str, count: int = 1) -> FailureGroup:
    return FailureGroup(State.FAILED, "9", None, None, shape_of(reason), count, 0, 0, "run", reason)


def rows(*groups: FailureGroup, status=IDLE, components=None):
    return steps_of(FLOW, status, components or {}, groups).rows


def test_a_failure_belongs_to_the_step_whose_name_begins_its_reason():
    found = rows(
        group("step 1, camera frame: no answer within the time limit", 3),
        group("step 1, camera frame: status 503", 4),
        group("step 3, RUN 7: child run 01M is failed: status 503", 2),
        group("PUBLISH alerts: not connected", 5),
    )
    assert [each.failed for each in found] == [7, 0, 2, 0, 5]


def test_a_failure_of_one_element_of_a_list_belongs_to_its_step():
    assert rows(group("step 1, camera frame, element 12: status 500"))[0].failed == 1


def test_steps_that_call_the_same_endpoint_show_their_failures_together_and_say_so():
    found = rows(group("step 4, store records: status 500", 6))
    assert [each.failed for each in found] == [0, 6, 0, 6, 0]
    assert (found[1].shared_with, found[3].shared_with) == ((4,), (2,))


@pytest.mark.parametrize("reason", [
    "undo of step 2, store records: status 500", "the deadline passed", "step 1, camera frames: x",
    "",
])  # fmt: skip
def test_a_failure_that_is_of_no_step_is_counted_elsewhere(reason):
    steps = steps_of(FLOW, IDLE, {}, [group(reason, 2)])
    assert [each.failed for each in steps.rows] == [0] * 5
    assert steps.elsewhere == 2


def texts(picture: str) -> str:
    return " ".join(re.findall(r"<text[^>]*>([^<]*)", picture))


@pytest.mark.parametrize("order", list(Order))
def test_the_picture_marks_what_is_at_a_step_and_what_waits_and_what_failed(order):
    drawn = msgspec.structs.replace(FLOW, order=order)
    status = FlowStatus("9", at_steps={0: 1200})
    store = ComponentStatus("store", waiting=7)
    camera = ComponentStatus("camera", circuit="open")
    components = {"store": store, "camera": camera}
    steps = steps_of(drawn, status, components, [group("step 3, RUN 7: x")])
    picture = picture_of(drawn, steps, "../")
    shown = texts(picture)
    assert "▶ 1,200 now" in shown
    assert "⊘ circuit open" in shown
    assert shown.count("‖ 7 calls wait") == 2
    assert "✗ 1 failed, 1 h" in shown
    assert 'href="../components/store"' in picture
    assert 'href="../flows/7"' in picture


def test_a_flow_without_steps_has_no_rows():
    assert steps_of(Flow("9"), IDLE, {}, []).rows == []


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_a_picture_on_a_page_has_no_styles_no_scripts_and_no_markup_of_others(text):
    call = Call(1, text, text, Method.GET, options=CallOptions(name=text))
    hostile = flow(call, SubFlow(2, text), Publish(text), Wait(5))
    picture = picture_of(hostile, steps_of(hostile, IDLE, {}, []), "../")
    tags = set(re.findall(r"<(\w+)", picture))
    assert tags <= {"svg", "g", "path", "rect", "circle", "text", "a"}
    names = set(re.findall(r' ([\w-]+)="', re.sub(r'="[^"]*"', '=""', picture)))
    assert not {name for name in names if name == "style" or name.startswith("on")}
    assert all(char.isprintable() or char == "\n" for char in picture)


@pytest.mark.parametrize(("line", "shown"), [
    ('  HEADER Authorization "Bearer abc.def"', '  HEADER Authorization "*****"'),
    ('  HEADER X-Api-Key "k1"  # of 2025', '  HEADER X-Api-Key "*****"  # of 2025'),
    ('  QUERY token "a\\"b"', '  QUERY token "*****"'),
    ("  HEADER X-Api-Key payload.key", "  HEADER X-Api-Key payload.key"),
    ('  HEADER X-Line "3"', '  HEADER X-Line "3"'),
    ('POST JSON {"token": shot.token}', 'POST JSON {"token": shot.token}'),
    ("# password: hunter22", "# password: *****"),
])  # fmt: skip
def test_secrets_that_are_written_into_a_flow_are_masked(line, shown):
    assert masked_flow_line(line) == shown


ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
NUMBERS = st.integers(-(2**53), 2**53)


@given(st.recursive(
    st.none() | st.booleans() | NUMBERS | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
))  # fmt: skip
def test_a_payload_in_a_form_is_the_same_payload_and_shows_no_character_that_misleads(value):
    text = payload_to_edit(msgspec.json.encode(value))
    assert safe_block(text) == text
    assert msgspec.json.decode(payload_to_send(text.replace("\n", "\r\n"))) == value


@pytest.mark.parametrize("text", ["", " ", "{line: 5}", "hello", '{"a": 1} x', '{"a": 1, "a": 2}'])
def test_a_payload_that_is_no_json_is_refused(text):
    with pytest.raises(Malformed):
        payload_to_send(text)


def test_the_fields_that_a_payload_lacks_are_named_with_the_field_that_is_meant():
    uses = flow_of_text(
        'TO a 1\nPOST JSON {"x": payload.line, "y": payload.part.id}\nPOST payload.line'
    )
    payload = b'{"lime": 3, "part": {"id": null}}'
    [missing] = fields_that_are_missing(uses, payload)
    assert (missing.reference.path, missing.similar) == ("line", "lime")
    assert len(fields_that_are_missing(uses, b"{}")) == 2
    assert fields_that_are_missing(uses, b'{"line": 3, "part": {"id": 4}}') == []


def flow_of_text(text: str) -> Flow:
    return flows(f"9\n{text}\n")["9"]
