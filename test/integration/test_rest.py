"""The REST interface of a real node."""

from __future__ import annotations

import gzip
import json
import resource
import socket
from pathlib import Path
from urllib.parse import quote

import pytest

from components import Components
from fractal_rm.domain.state import State
from fractal_rm.web.api.trigger_requests import preferred_wait_s
from nodes import HOST, NodeProcess, wait_until


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    components = Components()
    process = NodeProcess(tmp_path_factory.mktemp("rest"), components=components.port, mode="api")
    process.edit("comm", max_trigger_bytes=10_000)
    with (process.config / "flows.conf").open("a") as file:
        file.write('\n4\nTO component1 1\nPOST payload\nREPLY JSON {"line": payload}\n')
    process.start()
    process.components = components
    yield process
    assert process.stop() == 0
    components.stop()


def post(node, body: bytes, **headers):
    headers.setdefault("Content_Type", "application/json")
    return node.request("POST", "/startrm", body, **headers)


TRIGGER = {"id_flow": "1", "is_load_balancing": True, "payload": "0x03abcdefghil"}


def test_a_trigger_is_answered_when_it_is_durable(node):
    status, headers, answer = node.trigger()
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert answer["state"] == "accepted"
    assert len(answer["run"]) == 26
    wait_until(lambda: node.history.run(answer["run"]).summary.state is State.SUCCEEDED)


def test_a_client_that_waits_gets_the_results(node):
    status, _, answer = node.trigger(Prefer="wait=30")
    assert (status, answer["state"]) == (200, "succeeded")
    assert answer["results"] == ['{"ok": true}'] * 3
    assert answer["reply"] == '{"ok": true}'


def test_a_client_that_waits_gets_the_value_of_the_reply_step(node):
    for _ in range(2):  # the second time, the outcome is read from the disk
        _, _, answer = node.trigger("4", Prefer="wait=30", Idempotency_Key="waited")
        assert (answer["results"], answer["reply"]) == (['{"ok": true}'], {"line": "p"})
        wait_until(lambda run=answer["run"]: node.history.run(run).summary.state.final)


def test_bytes_are_returned_in_base64(node):
    node.components.answers["/endpoint2"] = (200, b"\xff\xd8\xff", {"Content-Type": "image/jpeg"})
    for _ in range(2):  # the second time, the outcome is read from the disk
        _, _, answer = node.trigger("2", Prefer="wait=30", Idempotency_Key="bytes")
        assert answer["results"] == [{"base64": "/9j/"}]
        assert answer["reply"] == {"base64": "/9j/"}
        wait_until(lambda run=answer["run"]: node.history.run(run).summary.state.final)
    facts = [timed["fact"] for timed in node.get(f"/v1/runs/{answer['run']}")[2]["facts"]]
    (finished,) = [fact for fact in facts if fact["fact"] == "finished"]
    assert (finished["result"], finished["base64"]) == (None, "/9j/")
    del node.components.answers["/endpoint2"]


def test_a_client_whose_wait_ends_early_gets_the_state(node):
    node.components.answers["/endpoint2"] = "hang"
    _, _, answer = node.trigger("2", Prefer="wait=1")
    assert answer["state"] in ("accepted", "running")
    assert "results" not in answer
    node.components.release.set()
    wait_until(lambda: node.history.run(answer["run"]).summary.state.final)
    node.components.release.clear()
    del node.components.answers["/endpoint2"]


def test_a_flow_can_be_named_in_the_path(node):
    status, headers, answer = node.request(
        "POST", "/v1/flows/1/runs", b'{"any": "payload"}', Content_Type="application/json"
    )
    assert (status, headers["location"]) == (202, f"/v1/runs/{answer['run']}")
    wait_until(lambda: node.get(headers["location"])[2]["summary"]["state"] == "succeeded")
    detail = node.get(headers["location"])[2]
    assert [each["fact"]["fact"] for each in detail["facts"]] == [
        "accepted", "placed", "finished", "finished", "finished", "settled",
    ]  # fmt: skip
    assert detail["facts"][0]["fact"]["payload"] == {"any": "payload"}


EVENT = {"specversion": "1.0", "id": "7", "source": "/line", "type": "frame.taken"}
EVENT_TYPE = "application/cloudevents+json"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def accepted_fact(node, answer):
    return wait_until(lambda: node.history.run(answer["run"])).facts[0].fact


def test_a_cloud_event_can_contain_a_trigger(node):
    body = json.dumps({**EVENT, "data": {**TRIGGER, "deadline_ms": 60_000}}).encode()
    status, _, answer = post(node, body, Content_Type=EVENT_TYPE)
    repeated = post(node, body, Content_Type=EVENT_TYPE)[2]
    assert (status, repeated["run"]) == (200, answer["run"])
    fact = accepted_fact(node, answer)
    assert (fact.key, fact.budget_ms) == ("/line 7", 60_000)


def test_at_the_path_of_a_flow_the_data_of_an_event_is_the_payload(node):
    body = json.dumps({**EVENT, "id": "8", "data": [1, 2]}).encode()
    _, _, answer = node.request("POST", "/v1/flows/1/runs", body, Content_Type=EVENT_TYPE)
    assert bytes(accepted_fact(node, answer).payload) == b"[1, 2]"


def test_headers_set_the_time_limit_and_the_trace(node):
    _, _, answer = node.trigger(Fractal_Time_Left="60000", traceparent=TRACE)
    fact = accepted_fact(node, answer)
    assert (fact.budget_ms, fact.traceparent) == (60_000, TRACE)


@pytest.mark.parametrize(
    ("change", "headers", "status", "detail"),
    [
        ({"data_base64": "AA=="}, {}, 422, "data_base64"),
        ({"specversion": "2.0"}, {}, 422, "specversion"),
        ({}, {"Content_Type": "application/cloudevents-batch+json"}, 415, "one event in a message"),
        ({}, {"Fractal_Time_Left": "soon"}, 422, "Fractal-Time-Left"),
        ({"data": {**TRIGGER, "deadline_ms": 0}}, {}, 422, "deadline_ms"),
    ],
)
def test_the_response_to_a_refused_event_has_a_detail(node, change, headers, status, detail):
    body = json.dumps({**EVENT, "data": TRIGGER, **change}).encode()
    received_status, _, problem = post(node, body, **{"Content_Type": EVENT_TYPE, **headers})
    assert received_status == status
    assert detail in problem["detail"]


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"", 400, "malformed"),
        (b"{", 400, "malformed"),
        (b"\xff\xfe", 400, "malformed"),
        (b"\x00" * 100, 400, "malformed"),
        (b"[" * 5_000, 400, "malformed"),
        (b'{"id_flow": "1", "is_load_balancing": true, "payload": NaN}', 400, "malformed"),
        (b'{"id_flow": "1", "id_flow": "2", "is_load_balancing": true, "payload": 1}', 400,
         "malformed"),
        (b"x" * 10_001, 413, "too-large"),
        (b"[]", 422, "wrong-shape"),
        (b'{"is_load_balancing": true, "payload": 1}', 422, "wrong-shape"),
        (b'{"id_flow": "1", "payload": 1}', 422, "wrong-shape"),
        (b'{"id_flow": "1", "is_load_balancing": true}', 422, "wrong-shape"),
        (b'{"id_flow": "1", "is_load_balancing": "false", "payload": 1}', 422, "wrong-shape"),
        (b'{"id_flow": 1.5, "is_load_balancing": true, "payload": 1}', 422, "wrong-shape"),
        (b'{"id_flow": null, "is_load_balancing": true, "payload": 1}', 422, "wrong-shape"),
        (b'{"id_flow": "99", "is_load_balancing": true, "payload": 1}', 404, "unknown-flow"),
    ],
)  # fmt: skip
def test_a_refused_trigger_gets_problem_details(node, body, status, kind):
    received_status, headers, problem = post(node, body)
    assert (received_status, problem["status"]) == (status, status)
    assert headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:fractal-rm:{kind}"
    assert problem["title"]


def test_refused_requests_leave_nothing_in_the_journal(node):
    runs_before = len(node.runs())
    post(node, b"{")
    assert len(node.runs()) == runs_before


def test_a_flow_id_may_be_a_number(node):
    assert node.trigger(1)[0] == 200


def test_extra_keys_are_ignored(node):
    assert post(node, json.dumps({**TRIGGER, "vendor": [1]}).encode())[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_content_type_other_than_json_is_refused(node, kind):
    assert node.trigger(Content_Type=kind)[0] == 415


def test_a_compressed_body_is_refused_with_its_content_coding_as_the_reason(node):
    body = gzip.compress(json.dumps(TRIGGER).encode())
    status, _, answer = post(node, body, Content_Encoding="gzip")
    assert (status, answer["type"]) == (415, "urn:fractal-rm:wrong-content-coding")
    assert node.trigger(Content_Encoding="identity")[0] == 200


@pytest.mark.parametrize(("coding", "status"), [
    ("identity, gzip", 415), ("utf-8", 415), ("identity, identity", 400), ("", 400),
])  # fmt: skip
def test_for_each_content_coding_the_error_names_the_position_of_invalid_json(node, coding, status):
    received_status, _, answer = post(node, b"{", Content_Encoding=coding)
    assert received_status == status
    assert "line 1 column 2" in answer["detail"]


def test_a_charset_parameter_is_accepted(node):
    assert node.trigger(Content_Type="application/json; charset=utf-8")[0] == 200


def test_triggers_with_the_same_idempotency_key_are_one_run(node):
    first = node.trigger(Idempotency_Key="k-1")[2]["run"]
    wait_until(lambda: node.history.run(first).summary.state.final)
    status, _, repeated = node.trigger(Idempotency_Key="k-1", Prefer="wait=30")
    assert (status, repeated["run"], repeated["state"]) == (200, first, "succeeded")
    assert repeated["results"] == ['{"ok": true}'] * 3
    status, _, problem = node.trigger(payload="other", Idempotency_Key="k-1")
    assert (status, problem["type"]) == (422, "urn:fractal-rm:key-reused")


def test_an_unreadable_journal_is_named_in_the_list_of_runs(node):
    other = node.state / "other.journal"
    other.write_bytes(b"no database")
    status, _, answer = node.get("/v1/runs")
    other.unlink()
    assert status == 200
    (unreadable,) = answer["unreadable"]
    assert "other.journal" in unreadable


def test_lists_of_runs_are_filtered_and_paged(node):
    for _ in range(3):
        node.trigger("2", Prefer="wait=30")
    _, _, page = node.get("/v1/runs?flow=2&state=succeeded&limit=2")
    assert [run["flow"] for run in page["runs"]] == ["2", "2"]
    _, _, following = node.get(f"/v1/runs?flow=2&limit=2&state=succeeded&cursor={page['next']}")
    assert following["runs"][0]["id"] < page["runs"][-1]["id"]
    assert node.get("/v1/runs?state=nonsense")[0] == 400
    assert node.get("/v1/runs?limit=0")[0] == 400


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("state=bad", "state: Invalid enum value 'bad'"),
        ("limit=0", "limit: Expected `int` >= 1"),
        ("limit=x&state=bad", "limit: Expected `int`, got `str`; state: Invalid enum value"),
        ("stat=failed", "stat: there is no such parameter; this path has flow, state, "),
        ("flow=1&flow=2", "flow: it is given 2 times"),
        ("flow=", "flow: it is empty; leave it out instead"),
        ("state=failed,failed", "state: the value failed is given twice"),
        ("handled=yes", "handled: Expected `bool`, got `str`"),
        ("since=yesterday", "since: write a time with its zone"),
        ("since=2026-02-30T10:00Z", "since: there is no such time"),
        ("until=999999999999999", "until: the time must be between"),
        ("cursor=%FF", "a parameter is not UTF-8"),
        ("cursor=nonsense", "cursor: "),
        ("&", "there is an empty parameter"),
        ("limit=٣", "limit: Expected `int`, got `str`"),
        ("&".join(["x"] * 101), "more than 100 parameters"),
    ],
)
def test_problem_details_name_an_invalid_query_parameter(node, query, detail):
    status, headers, problem = node.get(f"/v1/runs?{quote(query, safe='&=%,')}")
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert detail in problem["detail"]


def test_problem_details_quote_only_the_beginning_of_a_long_value(node):
    detail = node.get(f"/v1/runs?state={'x' * 5_000}")[2]["detail"]
    assert detail.startswith("state: ")
    assert len(detail) < 500


def test_flows_can_be_listed(node):
    _, _, flows = node.get("/v1/flows")
    assert [flow["id"] for flow in flows] == ["1", "2", "4"]


def test_an_unknown_path_gets_problem_details(node):
    for path in ("/nothing", "/v1/runs/NOSUCHRUN", "/v1/flows/1/nothing"):
        status, headers, problem = node.get(path)
        assert (status, problem["status"]) == (404, 404)
        assert headers["content-type"] == "application/problem+json"
    status, headers, _ = node.request("PUT", "/startrm")
    assert status == 405
    assert "POST" in headers["allow"]


def test_supervisors_can_read_the_health(node):
    assert node.get("/livez")[0] == 200
    status, _, health = node.get("/readyz")
    assert (status, health["ready"]) == (200, True)
    assert {check["name"] for check in health["checks"]} == {
        "serving", "journal", "room", "history", "clock", "runs", "commands", "rest",
    }  # fmt: skip


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/v1/flows", "/v1/runs", "/startrm", "/schema"]
)
def test_a_head_request_is_answered_like_get_without_the_content(node, path):
    status, headers, _ = node.request("GET", path)
    head_status, head_headers, content = node.request("HEAD", path)
    assert (head_status, content) == (status, None)
    assert head_headers["content-type"] == headers["content-type"]
    assert int(head_headers["content-length"]) > 0


def test_a_head_request_is_refused_where_get_is_refused(node):
    assert node.request("HEAD", "/v1/flows/1/runs")[0] == 405
    assert node.request("HEAD", "/nothing")[0] == 404
    assert node.request("PUT", "/livez")[1]["allow"] == "GET, HEAD, OPTIONS"


def test_the_api_has_an_openapi_description(node):
    _, _, schema = node.get("/schema")
    assert schema["openapi"].startswith("3.1")
    assert {
        "/startrm", "/v1/runs", "/v1/runs/{run_id}", "/v1/flows/{flow_id}/runs", "/v1/node",
        "/v1/node/draining", "/v1/runs/{run_id}/resolve",
    } <= set(schema["paths"])  # fmt: skip


def test_a_web_page_of_another_site_cannot_start_runs(node):
    assert node.trigger(Host="evil.example")[0] == 421
    assert node.trigger(Origin="http://evil.example")[0] == 421
    assert node.trigger(Host=f"localhost:{node.rest}")[0] == 200
    assert node.trigger(Origin=f"http://127.0.0.1:{node.rest}")[0] == 200


def send_raw(node, *parts: bytes, timeout_s: float = 20) -> bytes:
    """Send bytes in parts. Returns what is received until the node closes the connection."""
    with socket.create_connection((HOST, node.rest), timeout=timeout_s) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:
                break
        received = b""
        try:
            while chunk := connection.recv(65_536):
                received += chunk
        except ConnectionResetError:
            pass
        return received


def test_endless_headers_are_refused(node):
    answer = send_raw(
        node, b"POST /startrm HTTP/1.1\r\n", *[b"X-A: " + b"y" * 1_000 + b"\r\n"] * 60
    )
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_a_body_of_unknown_length_is_refused_when_it_exceeds_the_limit(node):
    head = (
        b"POST /startrm HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    answer = send_raw(node, head, *[b"1000\r\n" + b"x" * 4096 + b"\r\n"] * 5)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_large_body_is_refused_before_it_is_sent(node):
    head = (
        b"POST /startrm HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 10000000\r\n\r\n"
    )
    assert send_raw(node, head).startswith(b"HTTP/1.1 413 ")


def test_a_request_that_is_not_http_is_answered_and_closed(node):
    assert send_raw(node, b"\x16\x03\x01 hello\r\n\r\n").startswith(b"HTTP/1.1 400 ")


@pytest.mark.slow
def test_a_client_that_never_completes_the_head_of_its_request_is_disconnected(node):
    with socket.create_connection((HOST, node.rest), timeout=40) as client:
        client.sendall(b"POST /startrm HTTP/1.1\r\nHost: loc")
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")
    assert node.get("/livez")[0] == 200


def test_without_file_descriptors_clients_are_disconnected_and_runs_wait(node):
    pid, kind = node.process.pid, resource.RLIMIT_NOFILE
    allowed = resource.prlimit(pid, kind)
    highest = max(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir())
    clients = []

    def try_trigger():
        try:
            return node.trigger()
        except ConnectionError:
            return None

    try:
        resource.prlimit(pid, kind, (highest + 4, allowed[1]))
        clients += [socket.create_connection((HOST, node.rest), timeout=40) for _ in range(64)]
        assert clients[-1].recv(1) == b""
        for each in clients:
            each.close()
        runs = [wait_until(try_trigger)[2]["run"] for _ in range(10)]
        for run in runs:
            wait_until(lambda run=run: node.history.run(run).summary.state is State.SUCCEEDED)
    finally:
        resource.prlimit(pid, kind, allowed)
    assert node.get("/livez")[0] == 200


def test_after_all_these_requests_the_journal_is_undamaged(node):
    assert "Traceback" not in node.log
    assert node.problems() == []


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ([], None),
        (["wait=5"], 5),
        (["respond-async, wait=10"], 10),
        (['wait="7"'], 7),
        (["return=minimal", "Wait = 3"], 3),
        (["wait=999999"], 300),
        (["wait=x"], None),
        (["await=5"], None),
    ],
)
def test_the_header_prefer_is_parsed_as_in_rfc_7240(prefer, seconds):
    assert preferred_wait_s(prefer) == seconds
