"""Responses that are bytes and not text: a step sends the bytes unchanged, or fails."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest

from engine_stage import Stage, flows, until
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, TriggerMetadata, TriggerSource

JPEG = bytes.fromhex("ffd8ffe000104a46494600010101004800480000ffdb00430003020203020203030303040303")
TEXT = b64encode(JPEG).decode()
FETCH = "1\nTO a 1\nGET\n  AS frame\nTO b 1\n"


async def run(stage: Stage, payload: object = "p"):
    return await stage.run("1", payload=payload)


def sent(stage: Stage, name: str) -> list[bytes | None]:
    return [request.body for request in stage.components.requests if request.url.endswith(name)]


async def outcome_of(text: str, answer: bytes = JPEG, payload: object = "p", **head: str):
    """Run flow 1 of ``text``, where endpoint a 1 returns ``answer``. Returns outcome and stage."""
    async with Stage(flows=flows(text)) as stage:
        stage.set_answer("a/1", answer, **head)
        return await run(stage, payload), stage


# --- where bytes are possible -------------------------------------------------------------------


async def test_the_keyword_raw_sends_bytes_unchanged():
    text = FETCH + "POST RAW frame\nPUBLISH seen/it RAW frame\n"
    outcome, stage = await outcome_of(text, Content_Type="image/jpeg")
    assert outcome.state is State.SUCCEEDED
    assert sent(stage, "b/1") == [JPEG]
    assert stage.publisher.published == [("seen/it", JPEG, None)]


async def test_a_text_in_another_charset_is_sent_as_utf_8():
    outcome, stage = await outcome_of(
        FETCH + "POST RAW frame\n", b"caf\xe9", Content_Type="text/plain; charset=iso-8859-1"
    )
    assert outcome.state is State.SUCCEEDED
    assert sent(stage, "b/1") == ["café".encode()]


async def test_bytes_that_were_received_before_a_crash_are_sent_after_it():
    byte_flows = flows(FETCH.replace("1\n", "1\nDURABLE step\n", 1) + "POST RAW frame\n")
    stage = Stage(flows=byte_flows)
    await stage.node.start()
    stage.set_answer("a/1", JPEG)
    stage.block_calls("b/1")
    accepted = await stage.send()
    await until(lambda: "b/1" in stage.called_endpoints())
    stage.crash()
    async with Stage(stage.disk, flows=byte_flows) as restarted:
        assert (await restarted.wait_for_outcome(accepted.run)).state is State.SUCCEEDED
        assert sent(restarted, "b/1") == [JPEG]


async def test_base64_encodes_bytes_in_every_kind_of_value():
    text = FETCH + (
        "POST base64(frame) payload base64(payload.n)\n"
        'POST JSON {"image": base64(frame), "of": [base64(payload), base64(payload.none)]}\n'
        "  HEADER X-Image base64(frame)\n"
        "PUBLISH seen/it base64(frame)\n"
        "REPLY base64(frame)\n"
    )
    async with Stage(flows=flows(text)) as stage:
        stage.set_answer("a/1", JPEG)
        outcome = await run(stage, {"n": 7})
        assert outcome.state is State.SUCCEEDED
        items, template = map(json.loads, sent(stage, "b/1"))
        assert items == {"payload": [TEXT, {"n": 7}, b64encode(b"7").decode()]}
        assert template == {"image": TEXT, "of": [b64encode(b'{"n":7}').decode(), None]}
        assert stage.components.requests[-1].headers["x-image"] == TEXT
        assert json.loads(stage.publisher.published[0].body) == {"payload": [TEXT]}
        assert json.loads(bytes(outcome.reply)) == TEXT


# --- where bytes are not possible ---------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        "POST frame",
        "POST payload frame",
        'POST JSON {"a": [frame]}',
        "POST\n  HEADER X-A frame",
        "POST\n  QUERY a [frame]",
        "PUBLISH a/b frame",
        "REPLY frame",
        "REPLY payload frame",
        "POST\n  WHEN frame > 1",
        'POST\n  WHEN "a" in frame',
        "POST\n  WHEN [frame] == [1]",
    ],
)
async def test_a_step_fails_if_it_needs_json_or_text_and_gets_bytes(step):
    outcome, stage = await outcome_of(FETCH + step + "\n")
    assert outcome.state is State.FAILED
    assert "bytes" in outcome.reason, outcome.reason
    assert sent(stage, "b/1") == []


@pytest.mark.parametrize("step", ["POST frame.data", "POST\n  FOREACH frame", "POST frame.@"])
async def test_a_step_fails_if_it_applies_a_path_to_bytes(step):
    outcome, _ = await outcome_of(FETCH + step + "\n")
    assert outcome.state is State.FAILED
    assert outcome.reason == "step 2, b 1: result1 is not JSON: it is 38 bytes"


async def test_the_reason_suggests_raw_and_base64():
    outcome, _ = await outcome_of("1\nTO a 1\nGET\nPOST result1\n")
    assert outcome.reason == (
        "step 2, a 1: result1 is not text but 38 bytes: RAW sends them unchanged, and"
        " base64(result1) encodes them as text"
    )


async def test_bytes_are_equal_only_to_the_same_bytes():
    text = FETCH + (
        "POST RAW frame\n  WHEN frame != null\n"
        'POST JSON 1\n  WHEN frame == "a"\n'
        "TO a 1\nGET\n  AS again\n  EXPECT again == frame and again != 1\n"
    )
    outcome, stage = await outcome_of(text)
    assert outcome.state is State.SUCCEEDED, outcome.reason
    assert sent(stage, "b/1") == [JPEG]


async def test_a_foreach_fails_at_the_first_response_of_bytes_and_makes_no_further_call():
    outcome, stage = await outcome_of("1\nTO a 1\nGET\n  FOREACH payload\n", payload=[1, 2, 3])
    assert outcome.state is State.FAILED
    assert outcome.reason == (
        "step 1, a 1: the response for element 1 is not text but 38 bytes, and a list can contain"
        " only JSON and texts"
    )
    assert stage.called_endpoints() == ["a/1"]


async def test_an_undo_that_sends_bytes_fails_and_an_undo_that_sends_base64_is_made():
    text = (
        "1\nTO a 1\nGET\n  UNDO 2 result1\nGET\n  UNDO 2 base64(result1)\n"
        "TO b 1\nGET\n  EXPECT 201\n"
    )
    outcome, stage = await outcome_of(text)
    assert "undo of step 1, a 2: result1 is not text" in outcome.reason
    assert [json.loads(body) for body in sent(stage, "a/2")] == [{"payload": [TEXT]}]


async def test_the_error_of_a_step_that_cannot_send_bytes_is_its_result_with_errors_continue():
    text = "1\nERRORS continue\nTO a 1\nGET\nTO b 1\nPOST result1\nPOST result2\n"
    outcome, stage = await outcome_of(text)
    assert outcome.state is State.SUCCEEDED
    assert sent(stage, "b/1") == [b'{"payload": ["[Request_Maker] - error."]}']


# --- replies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["", "REPLY RAW frame\n"])
async def test_a_waiting_sender_gets_bytes_in_base64(last):
    outcome, _ = await outcome_of("1\nTO a 1\nGET\n  AS frame\n" + last)
    assert [json.loads(bytes(each)) for each in outcome.results] == [{"base64": TEXT}]
    assert json.loads(bytes(outcome.reply)) == {"base64": TEXT}


async def test_an_mqtt_sender_gets_bytes_in_base64():
    async with Stage(flows=flows("1\nTO a 1\nGET\n")) as stage:
        stage.set_answer("a/1", JPEG)
        body = b'{"id_flow": "1", "payload": 1}'
        accepted = await stage.node.receive(
            Arrival(TriggerSource.MQTT, body, metadata=TriggerMetadata(reply_topic="answers"))
        )
        await until(lambda: stage.state(accepted.run).final)
        ((_, message, _),) = stage.publisher.published
        assert json.loads(message)["reply"] == {"base64": TEXT}


@pytest.mark.parametrize("reply", ["", "REPLY RAW result1\n"])
async def test_a_child_run_returns_bytes_to_its_parent(reply):
    text = "1\nRUN 2\nTO b 1\nPOST RAW result1\n\n2\nTO a 1\nGET\n" + reply
    outcome, stage = await outcome_of(text)
    assert outcome.state is State.SUCCEEDED
    assert sent(stage, "b/1") == [JPEG]


async def test_json_that_looks_like_encoded_bytes_stays_json():
    text = (
        "1\nRUN 2\nTO b 1\nPOST RAW result1\n\n"
        '2\nTO a 1\nGET\nREPLY JSON {"base64": base64(result1)}\n'
    )
    outcome, stage = await outcome_of(text)
    assert outcome.state is State.SUCCEEDED
    assert [json.loads(body) for body in sent(stage, "b/1")] == [{"base64": TEXT}]
