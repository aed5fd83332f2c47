"""Operators act on runs, dead letters and flows over HTTP. The runs are in memory."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from fractal_rm.domain.actions import Cancel, Discard, Replay, Send
from fractal_rm.domain.state import State
from operator_stage import OPEN, operator_stage

UNKNOWN = "01M872C587MC9CTEMPDVW2QE67"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with operator_stage(tmp_path_factory.mktemp("operator")) as stage:
        yield stage


@pytest.fixture
def stage(shared):
    """The shared stage, with its runs and flows as in the beginning."""
    shared.actions.__init__({run: state for state, run in OPEN.items()}, {"1": False, "2": False})
    return shared


def on_run(stage, action: str, state: State, body: object = None, **headers: str):
    return stage.ask("POST", f"/v1/runs/{OPEN[state]}/{action}", body, **headers)


# --- what is done --------------------------------------------------------------------------------


def test_a_waiting_run_is_cancelled_by_the_operator_whose_token_was_sent(stage):
    status, _, done = on_run(stage, "cancel", State.ACCEPTED)
    assert (status, done) == (200, {"run": OPEN[State.ACCEPTED], "state": "cancelled"})
    (request,) = stage.actions.requests
    assert request.actor == "token operate"
    assert request.action == Cancel(OPEN[State.ACCEPTED], cut=False, undo=True)


def test_a_run_that_goes_on_after_the_request_is_answered_with_202(stage):
    status, _, done = on_run(stage, "cancel", State.RUNNING, {"cut": True, "undo": False})
    assert (status, done["state"]) == (202, "running")
    assert stage.actions.requests[0].action == Cancel(OPEN[State.RUNNING], cut=True, undo=False)


def test_a_repeated_run_is_named_in_the_answer_and_in_location(stage):
    body = {"definition": "current", "from_step": 2, "again": True}
    status, headers, done = on_run(stage, "replay", State.FAILED, body)
    assert status == 202
    assert headers["location"] == f"/v1/runs/{done['new_run']}"
    action = stage.actions.requests[0].action
    assert isinstance(action, Replay)
    assert (action.definition.value, action.from_step, action.again) == ("current", 2, True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, None),
        ({"body": '{"id_flow": "ü"}'}, '{"id_flow": "ü"}'.encode()),
        ({"base64": "/9j/"}, b"\xff\xd8\xff"),
    ],
)
def test_a_dead_letter_is_sent_as_it_was_or_edited(stage, body, message):
    path = f"/v1/dead/{OPEN[State.DEAD]}/send"
    status, headers, done = stage.ask("POST", path, body)
    assert (status, headers["location"]) == (202, f"/v1/runs/{done['new_run']}")
    assert stage.actions.requests[0].action == Send(OPEN[State.DEAD], message)


def test_runs_and_dead_letters_are_discarded_with_a_note(stage):
    path = f"/v1/dead/{OPEN[State.DEAD]}/discard"
    assert stage.ask("POST", path, {"note": "a\u202etest"}).status == 200
    assert on_run(stage, "discard", State.FAILED).status == 200
    assert [request.action for request in stage.actions.requests] == [
        Discard(OPEN[State.DEAD], "a\u202etest"), Discard(OPEN[State.FAILED]),
    ]  # fmt: skip


def test_a_parked_run_is_released_and_goes_on(stage):
    assert on_run(stage, "release", State.PARKED).status == 202
    assert stage.actions.runs[OPEN[State.PARKED]] is State.ACCEPTED


def test_a_flow_is_paused_and_resumed(stage):
    assert stage.ask("POST", "/v1/flows/1/pause")[::2] == (200, {"flow": "1"})
    assert stage.actions.flows == {"1": True, "2": False}
    assert stage.ask("POST", "/v1/flows/1/resume").status == 200
    assert stage.actions.flows == {"1": False, "2": False}


# --- what is refused -----------------------------------------------------------------------------


def test_an_action_that_is_not_possible_says_how_the_run_is(stage):
    status, headers, problem = on_run(stage, "cancel", State.SUCCEEDED)
    assert (status, headers["content-type"]) == (409, "application/problem+json")
    assert problem["type"] == "urn:fractal-rm:wrong-state"
    assert (problem["run"], problem["state"]) == (OPEN[State.SUCCEEDED], "succeeded")


def test_what_was_repeated_before_is_repeated_only_if_the_request_says_again(stage):
    first = on_run(stage, "replay", State.FAILED).body["new_run"]
    status, _, problem = on_run(stage, "replay", State.FAILED)
    assert (status, problem["type"]) == (409, "urn:fractal-rm:already-handled")
    assert problem["new_run"] == first
    assert on_run(stage, "replay", State.FAILED, {"again": True}).body["new_run"] != first


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/runs/{UNKNOWN}/cancel",
        "/v1/runs/x%00%E2%80%AE/cancel",
        "/v1/flows/99/pause",
        f"/v1/dead/{UNKNOWN}/send",
        f"/v1/runs/{UNKNOWN}/explode",
    ],
)
def test_what_does_not_exist_is_404(stage, path):
    status, headers, _ = stage.ask("POST", path)
    assert (status, headers["content-type"]) == (404, "application/problem+json")
    assert stage.actions.requests == []


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("cancel", {"cutt": True}),
        ("cancel", {"cut": "yes"}),
        ("cancel", []),
        ("replay", {"from_step": 0}),
        ("replay", {"definition": "newest"}),
        ("release", {"x": 1}),
        ("discard", {"note": "x" * 2_001}),
        ("send", {"body": "a", "base64": "aa=="}),
        ("send", {"base64": "?"}),
        ("resolve", {}),
        ("resolve", {"done": True, "decision": "taken"}),
        ("resolve", {"decision": "perhaps"}),
    ],
)
def test_options_that_do_not_exist_are_422(stage, action, body):
    base = "dead" if action == "send" else "runs"
    status, _, problem = stage.ask("POST", f"/v1/{base}/{OPEN[State.FAILED]}/{action}", body)
    assert (status, problem["type"]) == (422, "urn:fractal-rm:wrong-shape")
    assert stage.actions.requests == []


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [(b"{", "application/json", 400), (b"{}", "text/plain", 415), (b"[" * 70_000, None, 413)],
)
def test_options_that_are_not_json_are_refused(stage, body, kind, status):
    headers = {"Content_Type": kind} if kind else {}
    assert on_run(stage, "cancel", State.ACCEPTED, body, **headers).status == status
    assert stage.actions.requests == []


@pytest.mark.parametrize("token", ["trigger", "read", "payload", None])
def test_actions_need_the_scope_operate_even_on_this_machine(stage, token):
    for path in (f"/v1/runs/{OPEN[State.ACCEPTED]}/cancel", "/v1/bulk", "/v1/flows/1/pause"):
        status, _, problem = stage.ask("POST", path, token=token)
        assert (status, problem["type"]) == (403, "urn:fractal-rm:missing-scope")
    assert stage.ask("DELETE", "/v1/bulk/1", token=token).status == 403
    assert stage.actions.requests == []


def test_parameters_in_the_query_of_an_action_are_refused(stage):
    answer = stage.ask("POST", f"/v1/runs/{OPEN[State.ACCEPTED]}/cancel?cut=true")
    assert (answer.status, answer.body["type"]) == (400, "urn:fractal-rm:bad-parameter")
    assert "cut: there is no such parameter" in answer.body["detail"]


# --- repeated requests, and two people at once ----------------------------------------------------


def test_a_request_that_is_sent_twice_with_one_key_is_done_once(stage):
    answers = [on_run(stage, "replay", State.FAILED, Idempotency_Key="k1") for _ in range(2)]
    assert answers[0].body["new_run"] == answers[1].body["new_run"]
    assert answers[1].body["repeated"] is True
    assert len(stage.actions.requests) == 1


def test_the_same_key_of_another_client_is_another_request(stage):
    first = on_run(stage, "discard", State.FAILED, Idempotency_Key="k1")
    second = stage.ask(
        "POST", f"/v1/runs/{OPEN[State.FAILED]}/discard", token="admin", Idempotency_Key="k1"
    )
    assert "repeated" not in first.body
    assert "repeated" not in second.body


def test_a_key_that_was_used_for_another_action_is_422(stage):
    _ = on_run(stage, "replay", State.FAILED, Idempotency_Key="k1")
    assert on_run(stage, "discard", State.FAILED, Idempotency_Key="k1").status == 422


@pytest.mark.parametrize("key", ["", "x" * 201, "\u00fc", "a\tb"])
def test_a_key_that_cannot_be_stored_is_400(stage, key):
    status, _, problem = on_run(stage, "cancel", State.ACCEPTED, Idempotency_Key=key)
    assert (status, problem["type"]) == (400, "urn:fractal-rm:bad-parameter")


def test_of_two_people_who_repeat_a_run_at_once_one_is_told_that_it_was_repeated(stage):
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: on_run(stage, "replay", State.FAILED), range(8)))
    assert sorted(answer.status for answer in answers) == [202] + [409] * 7
    new_run = next(answer.body["new_run"] for answer in answers if answer.status == 202)
    assert {answer.body["new_run"] for answer in answers} == {new_run}


def test_an_action_on_a_version_that_is_not_the_present_one_is_412(stage):
    etag = stage.ask("GET", "/v1/flows/1", token="read").headers["etag"]
    status, _, problem = stage.ask("POST", "/v1/flows/1/pause", If_Match='"other"')
    assert (status, problem["type"]) == (412, "urn:fractal-rm:changed")
    assert stage.actions.flows["1"] is False
    assert stage.ask("POST", "/v1/flows/1/pause", If_Match=f'"other", {etag}').status == 200
    assert stage.ask("POST", "/v1/flows/1/pause", If_Match="*").status == 200


# --- actions on many runs ------------------------------------------------------------------------


def bulk(stage, expect: int, action: str = "discard", **more: object):
    body = {"action": action, "filter": {"state": ["failed", "dead"]}, "expect": expect, **more}
    return stage.ask("POST", "/v1/bulk", body)


def finished(stage, path: str):
    """The bulk at ``path`` when its task has ended."""

    async def wait() -> None:
        task = stage.bulks.get(path.rpartition("/")[2]).task
        await asyncio.wait([task])

    stage.call(wait())
    return stage.ask("GET", path, token="read").body


def test_many_runs_are_handled_in_the_background_and_their_progress_can_be_read(stage):
    status, headers, started = bulk(stage, 2, note="a test")
    assert status == 202
    assert started["progress"]["total"] == 2
    answer = finished(stage, headers["location"])
    assert (answer["state"], answer["actor"]) == ("finished", "token operate")
    assert (answer["progress"]["done"], answer["progress"]["finished"]) == (2, True)
    assert {request.action for request in stage.actions.requests} == {
        Discard(OPEN[state], "a test") for state in (State.FAILED, State.DEAD)
    }
    assert answer in stage.ask("GET", "/v1/bulk", token="read").body["bulks"]


def test_refusals_of_single_runs_are_counted(stage):
    _ = on_run(stage, "replay", State.FAILED)
    answer = finished(stage, bulk(stage, 2, "replay").headers["location"])
    progress = answer["progress"]
    assert (progress["done"], progress["refused"]) == (1, 1)
    assert progress["refusals"] == {"already-handled": 1}


def test_many_runs_are_not_handled_if_their_number_has_changed(stage):
    status, _, problem = bulk(stage, 5)
    assert (status, problem["type"]) == (409, "urn:fractal-rm:count-changed")
    assert stage.actions.requests == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"action": "discard", "filter": {}, "expect": 13}, "empty filter"),
        ({"action": "discard", "expect": 13}, "filter"),
        ({"action": "discard", "filter": {"state": []}, "expect": 13}, "state"),
        ({"action": "discard", "filter": {"stat": ["failed"]}, "expect": 1}, "stat"),
        ({"action": "discard", "filter": {"state": ["failed"]}}, "expect"),
        ({"action": "explode", "filter": {"state": ["failed"]}, "expect": 1}, "explode"),
        ({"action": "discard", "filter": {"state": ["failed"]}, "expect": -1}, "expect"),
        ({"action": "discard", "filter": {"flow": ""}, "expect": 1}, "flow"),
        ({"action": "release", "filter": {"state": ["parked"]}, "expect": 1, "note": ""}, "note"),
    ],
)
def test_a_request_on_many_runs_needs_a_filter_and_a_number(stage, body, fault):
    answer = stage.ask("POST", "/v1/bulk", body)
    assert answer.status == 422
    assert fault in answer.body["detail"]
    assert stage.actions.requests == []


def test_a_wrong_time_in_a_filter_is_400(stage):
    body = {"action": "discard", "filter": {"since": "yesterday"}, "expect": 1}
    assert stage.ask("POST", "/v1/bulk", body).status == 400


def test_a_request_on_many_runs_with_the_same_key_is_one_request(stage):
    answers = [
        stage.ask("POST", "/v1/bulk", {
            "action": "discard", "filter": {"state": ["failed"]}, "expect": 1, "note": note,
        }, Idempotency_Key="many")
        for note in ("a", "a", "b")
    ]  # fmt: skip
    assert [answer.status for answer in answers] == [202, 202, 422]
    assert answers[0].body["id"] == answers[1].body["id"]


def test_a_request_on_many_runs_is_stopped_and_more_than_four_are_not_begun(stage, monkeypatch):
    gate = stage.call(_event())
    act = stage.actions.act

    async def wait_and_act(request):
        await gate.wait()
        return await act(request)

    monkeypatch.setattr(stage.actions, "act", wait_and_act)
    running = [bulk(stage, 2).headers["location"] for _ in range(4)]
    status, headers, problem = bulk(stage, 2)
    assert (status, problem["type"]) == (429, "urn:fractal-rm:too-many-bulks")
    assert int(headers["retry-after"]) >= 1
    with ThreadPoolExecutor(1) as threads:
        stopping = threads.submit(stage.ask, "DELETE", running[0])
        stage.call(_until(lambda: stage.bulks.get(running[0].rpartition("/")[2]).is_stopping))
        stage.loop.call_soon_threadsafe(gate.set)
        stopped = stopping.result()
    assert (stopped.status, stopped.body["state"]) == (200, "stopped")
    assert stopped.body["progress"]["done"] == 1  # the run that was being handled
    for path in running[1:]:
        assert finished(stage, path)["state"] == "finished"
    assert stage.ask("DELETE", running[1]).body["state"] == "finished"
    assert stage.ask("DELETE", "/v1/bulk/unknown").status == 404


async def _event() -> asyncio.Event:
    return asyncio.Event()


async def _until(is_true) -> None:
    while not is_true():
        await asyncio.sleep(0)


def test_hostile_text_comes_back_as_json_without_being_changed(stage):
    note = "<script>\u202e\x00\x1b[31m" + "x" * 1_900
    assert on_run(stage, "discard", State.FAILED, {"note": note}).status == 200
    assert stage.actions.requests[0].action.note == note
    lone = json.dumps({"note": "?"}).replace("?", "\\ud800").encode()
    assert on_run(stage, "discard", State.FAILED, lone).status == 400


# --- the level of the log ------------------------------------------------------------------------


def test_an_admin_changes_the_level_of_the_log(stage):
    answer = stage.ask("PUT", "/v1/log-level", "debug", token="admin")
    assert (answer.status, answer.body) == (200, {"level": "debug", "silent": []})
    assert stage.level == "debug"
    for body, status in (("loud", 400), (["debug"], 422), (b"debug", 400)):
        assert stage.ask("PUT", "/v1/log-level", body, token="admin").status == status
    assert stage.ask("PUT", "/v1/log-level", "info").status == 403
    assert stage.level == "debug"
