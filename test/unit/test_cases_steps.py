"""Cases for flows with every kind of step: waits, messages, sub-flows, lists, undos, replies."""

from __future__ import annotations

import pytest

from cases import ALL_STEPS, differences
from engine_stage import config, flows


@pytest.fixture(scope="module")
def configuration():
    return config(flows=ALL_STEPS)


def test_a_case_can_check_a_long_wait_and_a_message_and_a_reply(configuration):
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
    assert differences(configuration, text) == []


def test_a_message_that_the_broker_does_not_accept_fails_the_run(configuration):
    text = """flow = 1
    broker = "down"
    [[case.reply]]
    [case.expect]
    state = "failed"
    reason = "PUBLISH seen/it"
    publish = []
    """
    assert differences(configuration, text) == []


def test_the_calls_of_a_sub_flow_are_selected_by_its_id(configuration):
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
    assert differences(configuration, text) == []


def test_each_element_of_a_list_can_have_its_own_reply(configuration):
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
    assert differences(configuration, text) == []


def test_an_undo_is_a_separate_request(configuration):
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
    assert differences(configuration, text) == []


def test_independent_calls_are_made_at_the_same_time(configuration):
    text = """flow = 6
    [[case.reply]]
    delay = "3s"
    [case.expect]
    took = "3s"
    """
    assert differences(configuration, text) == []


def test_bytes_in_a_case_are_base64():
    configuration = config(flows=flows("1\nTO a 1\nGET\nTO b 1\nPOST RAW result1\n"))
    text = """flow = 1
    [[case.reply]]
    to = "a"
    base64 = "/9g="
    [[case.reply]]
    to = "b"
    [case.expect]
    results = { 1 = { base64 = "%s" } }
    [[case.expect.call]]
    [[case.expect.call]]
    base64 = "%s"
    """
    assert differences(configuration, text % ("/9g=", "/9g=")) == []
    assert differences(configuration, text % ("AAA=", "AAA=")) == [
        ("request 2, body", "base64 AAA=", "base64 /9g="),
        ("result1", '{"base64":"AAA="}', '{"base64":"/9g="}'),
    ]


def test_rates_and_circuits_take_virtual_time():
    """The first call of three is made at once. The rest of them wait: 2 times 30 minutes."""
    text = "1\nTO a 1\nPOST item\n  FOREACH payload\n  LIMIT 9\nRUN 2\nRUN 2\n\n"
    text += "2\nLIMIT 1/h\nTO b 1\nGET\n  RETRY 2 EVERY 1s\n"
    limited = {"a": {"rate": "2/h"}, "b": {"circuit": {"least_calls": 1, "open_s": 60}}}
    case = """flow = 1
    payload = [1, 2, 3]
    [[case.reply]]
    to = "a 1"
    [[case.reply]]
    to = "b 1"
    status = 503
    [[case.reply]]
    to = "b 1"
    [case.expect]
    state = "succeeded"
    took = "2h"
    """
    assert differences(config(keys=limited, flows=flows(text)), case) == []


def test_a_question_about_a_lost_call_has_its_own_reply():
    case = """flow = 1
    [[case.reply]]
    call = 1
    fault = "timeout"
    [[case.reply]]
    to = "once 2"
    json = { state = "done", result = "moved" }
    [case.expect]
    state = "succeeded"
    reply = "moved"
    [[case.expect.call]]
    to = "once 1"
    [[case.expect.call]]
    to = "once 2"
    """
    text = "1\nTO once 1\nPOST payload\n"
    probing = config(keys={"once": {"probe": "2"}}, flows=flows(text))
    assert differences(probing, case) == []
