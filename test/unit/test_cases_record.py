"""A case that is recorded from a run passes, and contains no secrets."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from msgspec import UNSET

from cases import ALL_STEPS
from engine_stage import Stage, config, flows
from fractal_rm.adapters.memory import MemoryPeers
from fractal_rm.cases.model import BalancerMock, Fault, PeerMock
from fractal_rm.cases.read import read_cases
from fractal_rm.cases.record import CannotRecord, record_case
from fractal_rm.cases.run import run_case
from fractal_rm.cases.write import case_text
from fractal_rm.config.model import Mqtt
from fractal_rm.config.secrets import secrets_of
from fractal_rm.domain.call import with_headers
from fractal_rm.domain.call_errors import CallTimedOut, ConnectFailed, PublishFailed
from fractal_rm.domain.handoff.messages import NoAnswer, NoReceipt, OfferRefused, Receipt
from fractal_rm.domain.masking.fields import STARS
from fractal_rm.domain.masking.secrets import SecretMask
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import RunDetail, RunSummary
from fractal_rm.simulation.clock import VirtualClock
from fractal_rm.simulation.loop import run_virtual

FLOWS = """\
1 with options
TO a 1
POST payload
  AS first
  HEADER X-Key payload.key
  QUERY model "small"
TO b 1
POST JSON {"n": first.n, "none": null}
  RETRY 2 EVERY 1s
  WHEN header(first, "ETag") != null
  AS second

2 continues
ERRORS continue
TO a 1
GET
TO b 1
POST result1

3 limited
DEADLINE 10s
TO a 1
GET
TO slow 1
GET
"""


def run_flow(prepare, flow: str = "1", payload: object = "p", all_flows=None, **keys):
    """Run a flow on a prepared stage. Returns the run, its sub-flow runs, and the configuration."""

    async def run_on_stage():
        clock = VirtualClock(asyncio.get_running_loop(), 1_790_000_000_000)
        async with Stage(clock=clock, flows=all_flows or flows(FLOWS)) as stage:
            prepare(stage)
            run = (await stage.offer(flow, payload, is_load_balancing=False, **keys)).run
            await stage.wait_for_outcome(run, 10_000)
        details = [detail(stage, each) for each in stage.disk.runs]
        return details, stage

    details, stage = run_virtual(run_on_stage())
    return details[0], details[1:], stage.dependencies.config


def detail(stage: Stage, run_id: str) -> RunDetail:
    recorded_run = stage.disk.runs[run_id]
    run = Run(run_id, recorded_run.flow, recorded_run.facts[0].at_ms)
    fold(run, [timed.fact for timed in recorded_run.facts])
    return RunDetail(
        RunSummary(
            run_id, recorded_run.flow.id, run.state, run.reason, run.accepted.source, run.node,
            run.accepted_ms, recorded_run.facts[-1].at_ms, "api",
        ),
        recorded_run.facts,
    )  # fmt: skip


def record_and_check(prepare, *args, **keys):
    """Run a flow, record a case, and check that the case passes. Returns the case and its text."""
    first, children, configuration = run_flow(prepare, *args, **keys)
    recorded_case = record_case(first, configuration, children=children)
    assert recorded_case.differences == ()
    text = case_text(recorded_case.case)
    (case,) = read_cases(text, configuration)
    assert run_case(case, configuration).differences == ()
    assert case.expected.state is first.summary.state
    return case, text


def set_answers(stage: Stage, name: str, *answers: object) -> None:
    """Let a component give these answers in order, and repeat the last one."""
    from engine_stage import URL
    from fractal_rm.domain.call import HttpResponse

    remaining = list(answers)

    async def answer(_):
        await asyncio.sleep(0.25)
        answer = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        if isinstance(answer, Exception):
            raise answer
        status, text = answer if isinstance(answer, tuple) else (200, answer)
        return HttpResponse(status, b'ETag: "7"\r\n', str(text).encode())

    stage.components.answers[f"{URL}/{name}"] = answer


def test_a_recorded_case_has_the_replies_as_mocks_and_the_requests_as_expectations():
    def prepare(stage):
        set_answers(stage, "a/1?model=small", '{"n": 7}')
        set_answers(stage, "b/1", 'it\'s "done"\n')

    case, text = record_and_check(prepare, payload={"key": "k-1", "none": None})
    first, second = case.expected.calls
    assert (first.query, first.headers) == ((("model", "small"),), (("X-Key", "k-1"),))
    assert second.body.text == '{"n": 7, "none": null}'
    assert case.expected.reply == 'it\'s "done"\n'
    assert case.replies[0].delay_ms == 250
    assert "json" not in text.replace("payload_json", "")


def test_a_recorded_case_has_a_reply_for_each_failed_attempt():
    def prepare(stage):
        set_answers(stage, "a/1?model=small", "{}")
        timed_out = CallTimedOut("no answer within the time limit", sent=True)
        set_answers(stage, "b/1", (503, "busy"), timed_out, "at last")

    case, _ = record_and_check(prepare, payload={"key": "k"})
    replies_to_call_2 = [
        (mock.status, mock.fault) for mock in case.replies if mock.selector.call == 2
    ]
    assert replies_to_call_2 == [(503, None), (200, Fault.TIMEOUT), (200, None)]
    assert len(case.expected.calls) == 4


@pytest.mark.parametrize(
    "error",
    [
        ConnectFailed("http://127.0.0.1:6000: connection refused"),
        ConnectFailed("http://127.0.0.1:6000: no connection within 3 s"),
        (404, "there is no such thing"),
    ],
)
def test_a_failed_run_can_be_recorded(error):
    stopping_at_errors = flows(FLOWS.replace("ERRORS continue\n", ""))
    case, text = record_and_check(
        lambda stage: set_answers(stage, "a/1", error), flow="2", all_flows=stopping_at_errors
    )
    assert case.expected.state is State.FAILED
    assert case.expected.reason.startswith("step 1, a 1")
    assert "127.0.0.1" not in text or "refused" in text


def test_a_run_that_continued_after_an_error_can_be_recorded():
    case, _ = record_and_check(
        lambda stage: set_answers(stage, "a/1", (500, "out of order")), flow="2"
    )
    assert [mock.status for mock in case.replies] == [500, 200]
    assert case.expected.calls[1].body.text == '{"payload": ["out of order"]}'


def test_an_expired_run_can_be_recorded():
    case, _ = record_and_check(lambda stage: stage.block_calls("slow/1"), flow="3")
    assert case.expected.state is State.EXPIRED


def test_the_reason_of_a_run_is_recorded_up_to_the_id_of_its_sub_flow_run():
    all_flows = flows("1\nDEADLINE 10s\nRUN 2 payload\n\n2\nTO once 1\nGET\n")
    case, _ = record_and_check(lambda stage: stage.block_calls("once/1"), all_flows=all_flows)
    assert case.expected.reason == (
        "the deadline of 10 s ended when 0 of 1 calls were made, and call 1 of child run"
    )


def test_a_run_that_was_handed_off_can_be_recorded():
    def prepare(stage):
        stage.balancer.answer = "3"

        async def take(_node, offer):
            return Receipt(offer.run, offer.epoch)

        stage.peers.answer_offer = take

    case, _ = record_and_check(prepare)
    assert (case.balancer.node, case.expected.node, case.expected.calls) == ("3", "3", ())


def test_a_run_that_a_node_refused_can_be_recorded():
    def prepare(stage):
        stage.balancer.answer = "2"
        assert isinstance(stage.peers, MemoryPeers)

        async def take(*_):
            return OfferRefused("node 2 answered 409", 409)

        stage.peers.answer_offer = take

    case, _ = record_and_check(prepare, flow="2")
    assert [mock.status for mock in case.peers] == [409]


@pytest.mark.parametrize(
    ("answer", "mock"),
    [
        ("9", BalancerMock("9")),  # not in nodes.conf
        ("1", BalancerMock("1")),  # this node itself
        (None, BalancerMock()),
        (ConnectFailed("http://127.0.0.1:6000: refused"), BalancerMock(fault=Fault.REFUSED)),
    ],
)
def test_the_reply_of_the_balancer_can_be_recorded(answer, mock):
    def prepare(stage):
        stage.balancer.answer = answer

    case, _ = record_and_check(prepare, flow="2")
    assert case.balancer == mock


def test_a_node_that_could_not_run_the_flow_can_be_recorded():
    def prepare(stage):
        stage.balancer.answer = "4"

    case, _ = record_and_check(prepare, flow="22", all_flows=flows("22\nTO a 1\nGET\n"))
    assert (case.balancer.node, case.peers) == ("4", ())


@pytest.mark.parametrize(
    ("answer", "mocks"),
    [
        (NoAnswer("refused", sent=False), [PeerMock(fault=Fault.REFUSED)] * 3),
        (NoAnswer("no answer", sent=True), [PeerMock(fault=Fault.TIMEOUT)]),
        (OfferRefused("node 2 answered 500: out of order", 500), [PeerMock(status=500)]),
        (NoReceipt(), [PeerMock(receipt=False)]),
    ],
)
def test_the_answer_to_an_offer_can_be_recorded(answer, mocks):
    def prepare(stage):
        stage.balancer.answer = "2"

        async def take(*_):
            return answer

        stage.peers.answer_offer = take

    case, _ = record_and_check(prepare, flow="2")
    assert list(case.peers) == mocks


def test_a_case_from_a_run_of_an_older_release_has_a_note_about_its_faults():
    timed_out = CallTimedOut("no answer within the time limit", sent=True)
    first, _, configuration = run_flow(lambda stage: set_answers(stage, "a/1", timed_out), flow="2")
    old = [
        msgspec.structs.replace(timed, fact=msgspec.structs.replace(timed.fact, cause=UNSET))
        if hasattr(timed.fact, "cause")
        else timed
        for timed in first.facts
    ]
    recorded_case = record_case(msgspec.structs.replace(first, facts=old), configuration)
    assert "without causes" in recorded_case.notes[0]
    assert recorded_case.case.replies[0].fault is Fault.BROKEN


@pytest.mark.parametrize("flow", list(ALL_STEPS))
def test_every_kind_of_step_can_be_recorded(flow):
    case, _ = record_and_check(
        lambda _: None, flow=flow, payload={"all": [1, 2], "inner": "x"}, all_flows=ALL_STEPS
    )
    assert case.expected.state is State.SUCCEEDED


def test_a_run_with_an_undo_can_be_recorded():
    case, _ = record_and_check(
        lambda stage: set_answers(stage, "b/1", (500, "no")), flow="5", all_flows=ALL_STEPS
    )
    assert [call.selector.undo for call in case.expected.calls] == [None, None, True]


@pytest.mark.parametrize(
    "all_flows", [ALL_STEPS, flows("1\nRUN 2 payload\n\n2\nPUBLISH t payload\n")]
)
def test_a_broker_that_was_down_is_recorded(all_flows):
    def prepare(stage):
        stage.publisher.down = True

    case, _ = record_and_check(prepare, flow="1", all_flows=all_flows)
    assert case.broker_down


@pytest.mark.parametrize("text", ["1\n", "1\nRUN 2 payload\n\n2\n"])
def test_a_broker_that_accepted_a_message_later_is_recorded_as_up(text):
    def prepare(stage):
        publish, failures = stage.publisher.publish, [PublishFailed("down")] * 2

        async def publish_after_failures(*message):
            if failures:
                raise failures.pop()
            await publish(*message)

        stage.publisher.publish = publish_after_failures

    case, _ = record_and_check(prepare, all_flows=flows(f"{text}PUBLISH t payload\n"))
    assert (case.broker_down, case.expected.state) == (False, State.SUCCEEDED)
    assert len(case.expected.published) == 1


def test_a_reply_that_could_not_be_evaluated_is_not_recorded_as_a_broker_that_was_down():
    text = '1\nORDER dataflow\nPUBLISH t payload\nREPLY JSON {"n": payload."abs(@)"}\n'
    case, _ = record_and_check(lambda _: None, payload=[], all_flows=flows(text))
    assert not case.broker_down
    assert len(case.expected.published) == 1


def test_a_reply_that_does_not_meet_the_modifier_expect_is_recorded_with_its_status():
    all_flows = flows("1\nTO a 1\nGET\n  AS it\n  EXPECT it.n == 1\n")
    first, _, configuration = run_flow(
        lambda stage: set_answers(stage, "a/1", '{"n": 2}'), all_flows=all_flows
    )
    recorded_case = record_case(first, configuration)
    assert recorded_case.case.expected.state is State.FAILED
    assert recorded_case.case.replies[0].status == 200


def test_a_payload_is_recorded_unchanged():
    large = 10**30
    case, _ = record_and_check(
        lambda stage: set_answers(stage, "a/1", "x"), flow="2", payload=[large, 1.0, None]
    )
    assert case.payload == f"[{large}, 1.0, null]".encode()


def test_a_case_has_a_note_if_the_flow_has_changed_since_the_run():
    first, _, configuration = run_flow(lambda stage: set_answers(stage, "a/1", "x"), flow="2")
    changed = flows(FLOWS.replace("POST result1", "POST payload"))
    recorded_case = record_case(first, msgspec.structs.replace(configuration, flows=changed))
    assert recorded_case.notes == ("flow 2 has changed since this run",)
    with pytest.raises(CannotRecord, match="no longer has flow 2"):
        record_case(first, msgspec.structs.replace(configuration, flows={}))


def test_a_run_that_has_not_ended_or_whose_facts_were_dropped_cannot_be_recorded():
    first, _, configuration = run_flow(lambda stage: set_answers(stage, "a/1", "x"), flow="2")
    open_run = msgspec.structs.replace(first.summary, state=State.RUNNING)
    with pytest.raises(CannotRecord, match="has not ended"):
        record_case(msgspec.structs.replace(first, summary=open_run), configuration)
    with pytest.raises(CannotRecord, match="dropped for their age"):
        record_case(msgspec.structs.replace(first, facts=[]), configuration)


# --- secrets ----------------------------------------------------------------------------------


def test_a_recorded_case_contains_no_secret():
    def prepare(stage):
        set_answers(stage, "a/1?model=small", json.dumps({"n": 1, "access_token": "tell-nobody"}))
        set_answers(stage, "b/1", "Authorization: Bearer tell-nobody-2")

    payload = {"key": "k", "login": {"password": "tell-nobody-3"}, "list": [{"apiKey": "tell-4"}]}
    _, text = record_and_check(prepare, payload=payload)
    assert "tell-" not in text
    assert STARS in text


def test_secrets_of_the_configuration_are_masked_everywhere(secret_configuration):
    mask = SecretMask(secrets_of(secret_configuration))
    assert mask.text("it said hunter22, and t0k3n-t0k3n") == f"it said {STARS}, and {STARS}"
    assert mask.value({"a": ["x hunter22"], "n": 1, "none": None}) == {
        "a": [f"x {STARS}"], "n": 1, "none": None,
    }  # fmt: skip


@pytest.fixture
def secret_configuration():
    from engine_stage import config

    configuration = config(mqtt=Mqtt(password="hunter22"))
    assert configuration.balancer is not None
    guarded = with_headers(configuration.balancer, [("Authorization", "Bearer t0k3n-t0k3n")])
    return msgspec.structs.replace(configuration, balancer=guarded)


@pytest.mark.parametrize(
    "text",
    ["", "plain words", '{"token_count_is_no": 1', "7", '"text"', '{"n": 1.0, "a": [true, null]}'],
)
def test_a_text_without_secrets_is_unchanged(secret_configuration, text):
    assert SecretMask(secrets_of(secret_configuration)).text(text) == text


@pytest.mark.parametrize(
    "text",
    ['{"password": "x1y2"}', "password=x1y2", "api-key: 'x1y2'", "Bearer x1y2x1y2",
     "my_token = x1y2", '{"a": "token=x1y2"}', "pointing to https://me:x1y2@there/y",
     '[{"Authorization": ["x1y2"]}]', '{"secret": {"inner": "x1y2"}}'],
)  # fmt: skip
def test_a_value_that_looks_like_a_secret_is_masked(secret_configuration, text):
    assert "x1y2" not in SecretMask(secrets_of(secret_configuration)).text(text)


def test_bytes_are_recorded_in_base64():
    all_flows = flows(
        "1\nTO a 1\nGET\nTO b 1\nPOST RAW result1\nPUBLISH x RAW result1\nREPLY RAW result1\n"
    )
    case, text = record_and_check(
        lambda stage: stage.set_answer("a/1", b"\xff\xd8"), all_flows=all_flows
    )
    assert text.count('base64 = "/9g="') == 3
    assert case.expected.reply == '{"base64":"/9g="}'


def test_a_redirect_is_recorded_with_its_location():
    def answer_with_redirect(stage):
        stage.set_answer("a/1", "see: there", 308, Location="http://10.0.0.7:1/x y")

    case, _ = record_and_check(answer_with_redirect, all_flows=flows("1\nTO a 1\nGET\n"))
    assert case.replies[0].headers == (("Location", "http://10.0.0.7:1/x%20y"),)
    assert case.expected.reason.endswith("pointing to http://10.0.0.7:1/x%20y: see: there")


def test_a_reply_of_null_is_recorded():
    case, _ = record_and_check(
        lambda _: None, all_flows=flows("1\nTO a 1\nGET\n  WHEN payload == 1\n")
    )
    assert case.expected.reply == "null"


def test_a_header_is_recorded_even_if_only_the_modifier_expect_uses_it():
    all_flows = flows('1\nTO a 1\nGET\n  EXPECT header(result1, "Location") == "/b"\n')
    case, _ = record_and_check(
        lambda s: s.set_answer("a/1", "ok", Location="/b"), all_flows=all_flows
    )
    assert case.replies[0].headers == (("location", "/b"),)


def test_a_text_with_a_byte_order_mark_is_replayed_as_utf_8_regardless_of_its_charset():
    kind = "application/json; charset=iso-8859-1"
    all_flows = flows(
        '1\nTO a 1\nGET\nPOST result1.t\n  WHEN header(result1, "Content-Type") != 1\n'
    )
    body = '\ufeff{"t": "é"}'.encode()
    case, _ = record_and_check(
        lambda s: s.set_answer("a/1", body, Content_Type=kind), all_flows=all_flows
    )
    assert case.expected.calls[1].body.text == '{"payload": ["é"]}'


def test_a_text_in_another_charset_is_replayed_in_that_charset():
    kind = "text/plain; charset=iso-8859-1"
    all_flows = flows(
        '1\nTO a 1\nGET\nPOST result1\n  WHEN header(result1, "Content-Type") != null\n'
    )
    case, _ = record_and_check(
        lambda s: s.set_answer("a/1", b"caf\xe9", Content_Type=kind), all_flows=all_flows
    )
    assert case.replies[0].headers == (("content-type", kind),)
    assert case.expected.calls[1].body.text == '{"payload": ["café"]}'


def test_headers_that_every_call_has_are_not_masked():
    assert (
        SecretMask(secrets_of(config())).text("identity */* fractal-rm")
        == "identity */* fractal-rm"
    )
