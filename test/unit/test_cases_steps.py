"""Cases of flows with every kind of step: waits, messages, sub-flows, lists, undos, replies."""

from __future__ import annotations

import pytest

from fractal_rm.cases.read import read_cases
from fractal_rm.cases.run import judged
from fractal_rm.domain.expression import Item, Payload, Result
from fractal_rm.domain.flow import (
    Call,
    Content,
    Each,
    Flow,
    Method,
    Order,
    Publish,
    Respond,
    SubFlow,
    Terms,
    Undo,
    Wait,
)
from worlds import config

PATIENT = Flow(
    "1",
    steps=(
        Call(1, "a", "1", Method.POST, (Payload(),)),
        Wait(3_600_000),
        Publish("seen/it", Content(items=(Result(1),))),
        Call(2, "b", "1", Method.GET),
        Respond(Content(items=(Result(1),))),
    ),
)
PARENT = Flow("2", steps=(SubFlow(1, "3", Content(items=(Payload("inner"),))),))
CHILD = Flow("3", steps=(Call(1, "b", "1", Method.POST, (Payload(),)), Wait(60_000)))
LIST = Flow(
    "4",
    steps=(Call(1, "a", "1", Method.POST, (Item(),), terms=Terms(each=Each(Payload("all"), 2))),),
)
CAREFUL = Flow(
    "5",
    steps=(
        Call(1, "a", "1", Method.POST, terms=Terms(undo=Undo("2", (Result(1),)))),
        Call(2, "b", "1", Method.GET),
    ),
)
AT_ONCE = Flow(
    "6",
    steps=(Call(1, "a", "1", Method.GET), Call(2, "b", "1", Method.GET)),
    order=Order.DATAFLOW,
)


@pytest.fixture(scope="module")
def made():
    return config(
        flows={each.id: each for each in (PATIENT, PARENT, CHILD, LIST, CAREFUL, AT_ONCE)}
    )


def differences(made, text: str) -> list[tuple[str, str, str]]:
    """What, expected and got, of the one case of a text."""
    (case,) = read_cases(f'[[case]]\nname = "it"\n{text}', made)
    return [(each.what, each.expected, each.got) for each in judged(case, made).differences]


def test_an_hour_of_waiting_a_message_and_a_reply(made):
    text = """flow = 1
    [[case.reply]]
    call = 1
    text = "first"
    [[case.reply]]
    call = 2
    text = "second"
    [case.expect]
    took = "1h"
    reply = "first"
    publish = [{ topic = "seen/it", json = { payload = ["first"] } }]
    [[case.expect.call]]
    to = "a 1"
    [[case.expect.call]]
    to = "b 1"
    """
    assert differences(made, text) == []


def test_a_message_that_no_broker_takes(made):
    text = """flow = 1
    broker = "down"
    [[case.reply]]
    [case.expect]
    state = "failed"
    reason = "PUBLISH seen/it"
    publish = []
    """
    assert differences(made, text) == []


def test_calls_of_a_sub_flow_are_known_by_its_id(made):
    text = """flow = 2
    payload = { inner = "x" }
    [[case.reply]]
    flow = 3
    call = 1
    text = "from the child"
    [case.expect]
    took = "1m"
    reply = "from the child"
    results = { 1 = "from the child" }
    [[case.expect.call]]
    flow = 3
    call = 1
    json = { payload = ["x"] }
    """
    assert differences(made, text) == []


def test_each_element_of_a_list_can_have_its_own_reply(made):
    text = """flow = 4
    payload = { all = [10, 20, 30] }
    [[case.reply]]
    call = 1
    delay = "1s"
    json = 1
    [[case.reply]]
    call = 1
    element = 2
    delay = "1s"
    text = "two"
    [case.expect]
    took = "2s"
    reply = '[1, "two", 1]'
    [[case.expect.call]]
    element = 1
    json = { payload = [10] }
    [[case.expect.call]]
    element = 2
    [[case.expect.call]]
    element = 3
    """
    assert differences(made, text) == []


def test_an_undo_is_a_request_of_its_own(made):
    text = """flow = 5
    [[case.reply]]
    call = 1
    text = "made"
    [[case.reply]]
    call = 2
    status = 500
    [[case.reply]]
    call = 1
    undo = true
    text = "taken back"
    [case.expect]
    state = "failed"
    [[case.expect.call]]
    to = "a 1"
    [[case.expect.call]]
    to = "b 1"
    [[case.expect.call]]
    to = "a 2"
    undo = true
    json = { payload = ["made"] }
    """
    assert differences(made, text) == []


def test_calls_that_need_nothing_of_each_other_share_their_time(made):
    text = """flow = 6
    [[case.reply]]
    delay = "3s"
    [case.expect]
    took = "3s"
    """
    assert differences(made, text) == []
