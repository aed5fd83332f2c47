"""Calls with options that the original Runtime Manager does not have, also after a crash."""

from __future__ import annotations

import json

import pytest

from engine_stage import URL, ManualClock, Stage, flows, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import BadReply, CallTimedOut, ConnectFailed
from fractal_rm.domain.state import State

TIMED_OUT = CallTimedOut("no answer within the time limit", sent=True)


async def run(stage: Stage, payload: object = "p"):
    """Send a trigger for flow 1, and wait for the outcome."""
    return await stage.run(next(iter(stage.dependencies.config.flows)), payload=payload)


def bodies(stage: Stage) -> list[bytes | None]:
    return [request.body for request in stage.components.requests]


def results(outcome) -> list[object]:
    return [json.loads(bytes(result)) for result in outcome.results]


# --- what is sent -------------------------------------------------------------------------------


async def test_each_method_is_sent_with_or_without_a_body():
    text = "1\nTO a 1\nGET\nPOST payload\nPUT result1\nPATCH payload\nDELETE\nPUT\n"
    async with Stage(flows=flows(text)) as stage:
        assert (await run(stage)).state is State.SUCCEEDED
        requests = [(request.method, request.body) for request in stage.components.requests]
        assert requests == [
            ("GET", None),
            ("POST", b'{"payload": ["p"]}'),
            ("PUT", b'{"payload": ["from a/1"]}'),
            ("PATCH", b'{"payload": ["p"]}'),
            ("DELETE", None),
            ("PUT", b'{"payload": []}'),
        ]
        kinds = [request.headers.get("content-type") for request in stage.components.requests]
        assert kinds == [None, *["application/json"] * 3, None, "application/json"]


async def test_a_template_is_sent_with_its_references_filled_in():
    text = (
        "1\nTO a 1\nGET\n  AS frame\n"
        'POST JSON {"image": frame.data, "all": payload, "raw": frame, "n": [1, true, null],'
        ' "big": frame."data[?@ > `1`]", "none": frame.nothing}\n'
    )
    async with Stage(flows=flows(text)) as stage:
        stage.set_answer("a/1", '{"data": [1, 2, 3]}')
        assert (await run(stage, {"x": [1, 2.50]})).state is State.SUCCEEDED
        assert json.loads(bodies(stage)[1]) == {
            "image": [1, 2, 3],
            "all": {"x": [1, 2.5]},
            "raw": '{"data": [1, 2, 3]}',
            "n": [1, True, None],
            "big": [2, 3],
            "none": None,
        }


@pytest.mark.parametrize(
    ("reference", "body"),
    [
        ("result1", b' {"a": "b"}\n'),
        ("result1.a", b"b"),
        ("payload.n", b"[1,2]"),
        ("payload.none", b""),
    ],
)
async def test_the_keyword_raw_sends_a_text_without_encoding_it_as_json(reference, body):
    async with Stage(flows=flows(f"1\nTO a 1\nGET\nTO b 1\nPOST RAW {reference}\n")) as stage:
        stage.set_answer("a/1", ' {"a": "b"}\n')
        assert (await run(stage, {"n": [1, 2]})).state is State.SUCCEEDED
        assert bodies(stage)[1] == body


async def test_items_may_have_paths():
    text = '1\nTO a 1\nGET\n  AS found\nPOST found.box payload."lines[-1]" found\n'
    async with Stage(flows=flows(text)) as stage:
        stage.set_answer("a/1", '{"box": {"x": 1}}')
        assert (await run(stage, {"lines": [7, 8]})).state is State.SUCCEEDED
        assert json.loads(bodies(stage)[1]) == {"payload": [{"x": 1}, 8, '{"box": {"x": 1}}']}


async def test_a_step_fails_if_it_applies_a_path_to_a_result_that_is_not_json():
    async with Stage(flows=flows("1\nTO a 1\nGET\nTO b 1\nPOST result1.box\n")) as stage:
        outcome = await run(stage)
        assert outcome.state is State.FAILED
        assert outcome.reason.startswith("step 2, b 1: result1 is not JSON: ")
        assert stage.called_endpoints() == ["a/1"]


async def test_headers_and_parameters_are_added():
    text = (
        "1\nTO a 1\nPOST payload\n"
        '  HEADER X-Line payload.line\n  HEADER Content-Type "text/x-frame"\n'
        '  HEADER X-None payload.none\n  QUERY q payload.q\n  QUERY n 1\n  QUERY ä& "ü"\n'
    )
    async with Stage(flows=flows(text)) as stage:
        url = f"{URL}/a/1?q=a%20b%26%2F%3F&n=1&%C3%A4%26=%C3%BC"
        stage.components.answers[url] = stage.components.answers[f"{URL}/a/1"]
        outcome = await run(stage, {"line": 7, "q": "a b&/?"})
        assert outcome.state is State.SUCCEEDED
        (request,) = stage.components.requests
        assert request.url == url
        assert request.headers["x-line"] == "7"
        assert request.headers["content-type"] == "text/x-frame"
        assert "x-none" not in request.headers
        assert request.headers["idempotency-key"].endswith(":1")


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "日本"])
async def test_a_step_fails_before_its_call_if_a_header_cannot_contain_the_value(value):
    async with Stage(flows=flows("1\nTO a 1\nGET\n  HEADER X-A payload\n")) as stage:
        outcome = await run(stage, value)
        assert outcome.state is State.FAILED
        assert "the request cannot be sent: header 'X-A' contains" in outcome.reason
        assert stage.called_endpoints() == []


async def test_a_step_whose_header_is_not_latin_1_fails_with_a_reason_that_names_the_character():
    async with Stage(flows=flows("1\nTO a 1\nGET\n  HEADER X-A payload\n")) as stage:
        outcome = await run(stage, "20 °C → 68 °F")
        assert "header 'X-A' contains '→' (U+2192), which is not in Latin-1" in outcome.reason
        assert "codec" not in outcome.reason


async def test_the_first_of_two_response_headers_with_the_same_name_is_used():
    text = '1\nTO a 1\nGET\n  AS x\nTO b 1\nPOST JSON {"tag": header(x, "etag")}\n'
    async with Stage(flows=flows(text)) as stage:

        async def twice(_):
            return HttpResponse(200, b"ETag: one\r\netag: two\r\n", b"{}")

        stage.components.answers[f"{URL}/a/1"] = twice
        assert (await run(stage, "p")).state is State.SUCCEEDED
        assert json.loads(stage.components.requests[-1].body) == {"tag": "one"}


async def test_the_modifier_timeout_limits_only_its_own_call():
    async with Stage(flows=flows("1\nTO a 1\nGET\n  TIMEOUT 800ms\nGET\n")) as stage:
        await run(stage)
        assert [request.timeout_s for request in stage.components.requests] == [0.8, None]


# --- WHEN ---------------------------------------------------------------------------------------


async def test_a_skipped_call_has_a_number_and_the_result_null():
    text = (
        "1\nTO a 1\nGET\n  WHEN payload.go\n  AS first\nTO b 1\nPOST result1 first.x\n"
        "  WHEN first == null and status(first) == null and result1.x == null\n"
    )
    async with Stage(flows=flows(text)) as stage:
        outcome = await run(stage, {"go": False})
        assert outcome.state is State.SUCCEEDED
        assert results(outcome) == [None, "from b/1"]
        assert bodies(stage) == [b'{"payload": [null, null]}']


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("payload.n > result1", "> compares two numbers or two texts, not a number and a text"),
        ("payload.none < 1", "< compares two numbers or two texts, not null and a number"),
        ("payload.n", "a condition must be true or false, and this is a number"),
        ("result1.x == 1", "result1 is not JSON"),
        ("1 in payload.n", "in needs a list on the right"),
    ],
)
async def test_a_condition_that_cannot_be_evaluated_fails_the_step(condition, reason):
    text = f"1\nTO a 1\nGET\nTO b 1\nGET\n  WHEN {condition}\n"
    async with Stage(flows=flows(text)) as stage:
        outcome = await run(stage, {"n": 1})
        assert outcome.state is State.FAILED
        assert reason in outcome.reason
        assert stage.called_endpoints() == ["a/1"]


# --- EXPECT and RETRY ---------------------------------------------------------------------------


def answers_in_turn(stage: Stage, name: str, *answers: HttpResponse | Exception) -> None:
    """Answer each HTTP call of an endpoint with the next of ``answers``. The last is repeated."""
    remaining = list(answers)

    async def answer(_):
        next_answer = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        if isinstance(next_answer, Exception):
            raise next_answer
        return next_answer

    stage.components.answers[f"{URL}/{name}"] = answer


def response(status: int, text: str = "{}", **headers: str) -> HttpResponse:
    head = "".join(f"{n.replace('_', '-')}: {v}\r\n" for n, v in headers.items()).encode()
    return HttpResponse(status, head, text.encode())


@pytest.mark.parametrize(
    ("condition", "answer", "reason"),
    [
        ("201", response(201), None),
        ("201", response(200), "the response is not as expected: status 200"),
        ("404", response(404), None),
        ("status(x) in [200, 404]", response(404), None),
        ("x.ok", response(200, '{"ok": true}'), None),
        (
            "x.ok",
            response(200, '{"ok": false}'),
            'the response is not as expected: status 200: {"ok": false}',
        ),
        ("x.ok", response(500, '{"ok": true}'), 'status 500: {"ok": true}'),
        ("x.n > 1", response(200, '{"n": "2"}'), "EXPECT: > compares two numbers or two texts"),
        ('header(x, "ETag") == "7"', response(200, etag="7"), None),
        ('payload == "p" and result1 == "{}"', response(200, "{}"), None),
    ],
)
async def test_a_step_fails_if_its_response_does_not_meet_the_modifier_expect(
    condition, answer, reason
):
    async with Stage(flows=flows(f"1\nTO a 1\nGET\n  EXPECT {condition}\n  AS x\n")) as stage:
        answers_in_turn(stage, "a/1", answer)
        outcome = await run(stage)
        if reason is None:
            assert outcome.state is State.SUCCEEDED
        else:
            assert outcome.state is State.FAILED
            assert reason in outcome.reason


@pytest.mark.parametrize(
    ("answers", "calls"),
    [
        ([response(503), response(200)], 2),
        ([response(503)], 4),
        ([response(404)], 1),
        *[([response(status), response(200)], 2) for status in (408, 425, 429, 500, 502)],
        ([TIMED_OUT, BadReply("not HTTP"), response(200)], 3),
        ([ConnectFailed("refused")], 4),
        ([response(200, '{"done": false}'), response(200, '{"done": true}')], 2),
        ([response(503, retry_after="301")], 1),
    ],
)
async def test_the_modifier_retry_sets_how_many_times_a_failed_call_is_made_again(answers, calls):
    text = "1\nTO a 1\nGET\n  AS x\n  RETRY 3 EVERY 1ms\n  EXPECT x.done != false\n"
    async with Stage(flows=flows(text)) as stage:
        answers_in_turn(stage, "a/1", *answers)
        outcome = await run(stage)
        assert stage.called_endpoints() == ["a/1"] * calls
        ends_well = isinstance(answers[-1], HttpResponse) and answers[-1].status == 200
        assert outcome.state is (State.SUCCEEDED if ends_well else State.FAILED)
        assert len({r.headers["idempotency-key"] for r in stage.components.requests}) == 1


@pytest.mark.parametrize(
    ("answer", "calls"), [(response(503), 1), (TIMED_OUT, 1), (ConnectFailed("refused"), 3)]
)
async def test_a_call_that_is_not_idempotent_is_made_again_only_if_it_was_not_sent(answer, calls):
    async with Stage(flows=flows("1\nTO once 1\nGET\n  RETRY 2 EVERY 1ms\n")) as stage:
        answers_in_turn(stage, "once/1", answer)
        assert (await run(stage)).state is State.FAILED
        assert stage.called_endpoints() == ["once/1"] * calls


# --- DEADLINE and ERRORS ------------------------------------------------------------------------


async def test_a_call_in_flight_at_the_deadline_is_cancelled_and_the_run_is_expired():
    async with Stage(flows=flows("1\nDEADLINE 30ms\nTO a 1\nGET\nTO slow 1\nGET\n")) as stage:
        stage.block_calls("slow/1")
        outcome = await run(stage)
        assert outcome.state is State.EXPIRED
        assert outcome.reason == "the deadline of 0.03 s ended when 1 of 2 calls were made"
        assert results(outcome) == ["from a/1"]
        assert stage.node.unfinished == 0


async def test_a_pause_before_a_retry_ends_at_the_deadline():
    text = "1\nDEADLINE 30ms\nTO a 1\nGET\n  RETRY 3 EVERY 1h\n"
    async with Stage(flows=flows(text)) as stage:
        stage.set_answer("a/1", "no", 503)
        assert (await run(stage)).state is State.EXPIRED
        assert stage.called_endpoints() == ["a/1"]


async def test_a_call_that_waits_for_a_slot_ends_at_the_deadline_and_holds_no_slot():
    text = "1\nTO once 1\nGET\n\n2\nDEADLINE 30ms\nTO once 1\nGET\n"
    async with Stage(flows=flows(text), keys={"once": {"limit": 1}}) as stage:
        release = stage.block_calls("once/1")
        first = await stage.send("1")
        await until(lambda: stage.called_endpoints() == ["once/1"])
        assert (await stage.run("2")).state is State.EXPIRED
        release.set()
        assert (await stage.wait_for_outcome(first.run)).state is State.SUCCEEDED
        assert (await stage.run("1")).state is State.SUCCEEDED


async def test_a_run_whose_deadline_passed_in_the_queue_makes_no_call():
    async with Stage(flows=flows("1\nDEADLINE 5s\nTO a 1\nGET\n")) as stage:
        stage.node.pause(True)
        accepted = await stage.send("1")
        stage.clock.ms += 5_000
        stage.node.pause(False)
        await until(lambda: stage.state(accepted.run).final)
        assert stage.state(accepted.run) is State.EXPIRED
        assert stage.called_endpoints() == []


async def test_a_flow_that_ends_within_its_deadline_succeeds():
    async with Stage(flows=flows("1\nDEADLINE 5s\nTO a 1\nGET\nPOST result1\n")) as stage:
        assert (await run(stage)).state is State.SUCCEEDED


async def test_a_flow_goes_on_after_a_failure_as_in_the_original_with_the_setting_errors_continue():
    text = (
        "1\nERRORS continue\nTO a 1\nGET\nTO b 1\nPOST result1\nTO a 2\nPOST result1.x\n"
        "TO b 2\nPOST result1 result2 result3\n  WHEN status(result1) == null\n"
    )
    async with Stage(flows=flows(text)) as stage:
        stage.set_errors("a/1", TIMED_OUT)
        stage.set_answer("b/1", "out of paper", 500)
        outcome = await run(stage)
        assert outcome.state is State.SUCCEEDED
        error_text = "[Request_Maker] - error."
        assert results(outcome) == [error_text, "out of paper", error_text, "from b/2"]
        assert json.loads(bodies(stage)[-1]) == {
            "payload": [error_text, "out of paper", error_text]
        }
        assert stage.called_endpoints() == ["a/1", "b/1", "b/2"]


async def test_the_first_failure_ends_the_run_with_the_setting_errors_stop():
    async with Stage(flows=flows("1\nERRORS stop\nTO a 1\nGET\nTO b 1\nGET\n")) as stage:
        stage.set_answer("a/1", "no", 500)
        assert (await run(stage)).state is State.FAILED
        assert stage.called_endpoints() == ["a/1"]


async def test_a_run_that_is_cancelled_by_a_drain_resumes_at_the_next_start():
    disk = JournalContent()
    text = "1\nDEADLINE 1h\nTO slow 1\nGET\n"
    async with Stage(disk, flows=flows(text), bounds=Bounds(drain_s=0.01)) as stage:
        stage.block_calls("slow/1")
        run_id = (await stage.send("1")).run
        await until(lambda: stage.called_endpoints() == ["slow/1"])
    assert not disk.runs[run_id].state.final
    stage = Stage(disk, flows=flows(text))
    stage.set_answer("slow/1", "resumed")
    async with stage:
        await until(lambda: disk.runs[run_id].state is State.SUCCEEDED)


async def test_the_reason_of_an_expired_run_names_the_call_that_may_have_been_made():
    async with Stage(flows=flows("1\nDEADLINE 30ms\nTO once 1\nGET\n")) as stage:
        stage.block_calls("once/1")
        outcome = await run(stage)
        assert outcome.state is State.EXPIRED
        assert outcome.reason.endswith("0 of 1 calls were made, and call 1 may have been made")


# --- after a crash -------------------------------------------------------------------------------

RESUMED_FLOW = """\
1
TO a 1
GET
  AS found
TO a 2
GET
  AS skipped
  WHEN found.score > 1
TO slow 1
GET
TO b 1
POST JSON {"score": found.score, "was": skipped, "tag": header(found, "ETag")}
  WHEN status(found) == 203 and status(skipped) == null and header(found, "x-none") == null
"""


@pytest.mark.parametrize("crash", [False, True])
async def test_a_run_that_resumes_after_a_crash_has_the_same_outcome(crash):
    disk, clock = JournalContent(), ManualClock()
    stage = Stage(disk, clock, flows=flows(RESUMED_FLOW))
    await stage.node.start()
    stage.set_answer("a/1", '{"score": 0.5}', 203, ETag="7", other="not kept")
    release = stage.block_calls("slow/1")
    run_id = (await stage.send("1")).run
    await until(lambda: stage.called_endpoints()[-1:] == ["slow/1"])
    await stage.journal.durable
    if crash:
        stage.crash()
        stage = Stage(disk, clock, flows=flows(RESUMED_FLOW))
        stage.set_answer("slow/1", "resumed")
        await stage.node.start()
    release.set()
    assert (await stage.wait_for_outcome(run_id)).state is State.SUCCEEDED
    assert json.loads(bodies(stage)[-1]) == {"score": 0.5, "was": None, "tag": "7"}
    first, second, *_ = [fact for fact in disk.facts(run_id) if hasattr(fact, "result")]
    assert first.headers == {"etag": "7"}
    assert bytes(second.result) == b"null"
    await stage.node.drain()


async def test_a_deadline_includes_the_time_of_a_crash():
    disk, clock = JournalContent(), ManualClock()
    once = flows("1\nDEADLINE 10s\nTO slow 1\nGET\n")
    stage = Stage(disk, clock, flows=once)
    await stage.node.start()
    stage.block_calls("slow/1")
    run_id = (await stage.send("1")).run
    await until(lambda: stage.called_endpoints() == ["slow/1"])
    await stage.journal.durable
    stage.crash()
    clock.ms += 10_001
    async with Stage(disk, clock, flows=once, bounds=Bounds()) as stage:
        await until(lambda: disk.runs[run_id].state is State.EXPIRED)
        assert stage.called_endpoints() == []


# --- a byte order mark --------------------------------------------------------------------------

JSON_WITH_BOM = b'\xef\xbb\xbf{"a": [1, 2]}'


async def test_a_byte_order_mark_before_the_json_of_a_response_is_ignored():
    text = (
        "1\nTO a 1\nGET\nPOST result1.a\nPOST RAW result1\n"
        "GET\n  FOREACH result1.a\nPOST result4.@\n"
    )
    async with Stage(flows=flows(text)) as stage:
        stage.set_answer("a/1", JSON_WITH_BOM)
        outcome = await run(stage)
        assert outcome.state is State.SUCCEEDED, outcome.reason
        _, picked, raw, _, _, elements = bodies(stage)
        assert json.loads(picked) == {"payload": [[1, 2]]}
        assert raw == JSON_WITH_BOM
        assert json.loads(elements) == {"payload": [[{"a": [1, 2]}] * 2]}
