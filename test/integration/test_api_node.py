"""The API of a real node: questions and actions, also on runs of the node's other process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from components import Components
from fractal_rm.adapters.local_socket.client import ask as ask_process
from fractal_rm.adapters.local_socket.messages import Started, StartRun
from fractal_rm.config.token_file import TokenFile
from fractal_rm.domain.access import Scope
from fractal_rm.domain.tokens import Token, digest_of
from nodes import NodeProcess, wait_until


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    components = Components()
    process = NodeProcess(tmp_path_factory.mktemp("api"), components=components.port, mode="api")
    process.start()
    with TokenFile(process.state).changing() as tokens:
        tokens += [Token(scope.value, digest_of(scope.value), [scope], 0) for scope in Scope]
    process.components = components
    yield process
    assert process.stop() == 0
    components.stop()


def ask(node, method: str, path: str, body: object = None, token: str = "operate", **headers):
    content = None if body is None else json.dumps(body).encode()
    return node.request(
        method, path, content, Content_Type="application/json",
        Authorization=f"Bearer {token}", **headers,
    )  # fmt: skip


def ended_run(node, flow: str = "1") -> str:
    run = node.trigger(flow, Prefer="wait=30")[2]["run"]
    wait_until(lambda: node.history.run(run).summary.state.final)
    return run


def test_a_run_is_told_with_its_story_and_not_sent_again_while_it_is_the_same(node):
    run = ended_run(node)
    status, headers, body = node.get(f"/v1/runs/{run}")
    assert (status, body["story"]["state"]) == (200, "succeeded")
    assert body["story"]["why"]
    assert body["repeated_by"] == []
    etag = headers["etag"]
    status, _, content = node.request("GET", f"/v1/runs/{run}", If_None_Match=f'"x", W/{etag}')
    assert (status, content) == (304, None)
    # A client that may see less gets another version.
    assert ask(node, "GET", f"/v1/runs/{run}", token="read", If_None_Match=etag)[0] == 200
    new_run = ask(node, "POST", f"/v1/runs/{run}/replay", If_Match="*")[2]["new_run"]
    wait_until(lambda: node.get(f"/v1/runs/{run}")[2]["repeated_by"])
    status, _, body = node.request("GET", f"/v1/runs/{run}", If_None_Match=etag)
    assert (status, body["repeated_by"][0]["id"]) == (200, new_run)
    assert ask(node, "POST", f"/v1/runs/{run}/discard", If_Match=etag, token="admin")[0] == 412


def test_two_people_who_repeat_one_run_make_one_new_run(node):
    run = ended_run(node)
    with ThreadPoolExecutor(4) as threads:
        path = f"/v1/runs/{run}/replay"
        answers = list(threads.map(lambda _: ask(node, "POST", path), range(4)))
    assert sorted(answer.status for answer in answers) == [202, 409, 409, 409]
    assert len({answer.body["new_run"] for answer in answers}) == 1


def test_a_run_that_has_just_ended_is_not_cancelled_and_the_answer_says_how_it_is(node):
    run = ended_run(node)
    status, _, problem = ask(node, "POST", f"/v1/runs/{run}/cancel")
    assert (status, problem["state"], problem["run"]) == (409, "succeeded", run)


def test_a_run_of_the_other_process_is_cancelled_by_that_process(two_processes):
    node, _, waiting = two_processes
    status, _, done = ask(node, "POST", f"/v1/runs/{waiting}/cancel")
    assert (status, done["state"]) == (200, "cancelled")
    processes = node.get("/v1/status")[2]["processes"]
    assert [each["journal"] for each in processes] == ["api", "mqtt"]
    assert ask(node, "PUT", "/v1/log-level", "debug", "admin")[2] == {
        "level": "debug", "silent": [],
    }  # fmt: skip


def test_a_process_that_does_not_answer_is_named(two_processes):
    node, other, _ = two_processes
    os.kill(other.process.pid, signal.SIGSTOP)
    try:
        assert node.get("/v1/status")[2]["silent"] == ["mqtt"]
        assert node.get("/v1/components")[0] == 200
    finally:
        os.kill(other.process.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def two_processes(node):
    """The node with a second process, `mqtt`, in which a run waits because its flow is paused."""
    other = node.second_process("mqtt")
    other.start()
    assert ask(node, "POST", "/v1/flows/2/pause")[0] == 200

    async def start_run() -> str:
        message = StartRun(flow="2", payload=msgspec.Raw(b"1"), request_id="r1")
        return (await ask_process(node.state / "mqtt.sock", message, Started, 20)).run

    def is_paused_everywhere() -> bool:
        processes = node.get("/v1/status")[2]["processes"]
        flows = [flow for each in processes for flow in each["flows"] if flow["flow"] == "2"]
        return len(flows) == 2 and all(flow["paused_by"] == "token operate" for flow in flows)

    wait_until(is_paused_everywhere)
    yield node, other, asyncio.run(start_run())
    assert ask(node, "POST", "/v1/flows/2/resume")[0] == 200
    assert other.stop() == 0


@pytest.mark.parametrize(
    "path", ["/v1/runs/", "//v1//runs", "/v1/runs?limit=1", "/v1/%72uns", "/v1/status/"]
)
def test_a_path_may_be_written_in_other_ways(node, path):
    assert node.get(path)[0] == 200
    assert node.request("HEAD", path)[0] == 200
    assert node.request("GET", path, Accept="text/html")[1]["content-type"] == "application/json"


def test_a_query_that_is_too_large_is_431_and_the_next_request_is_answered(node):
    assert node.get("/v1/runs?text=" + "x" * 20_000)[0] == 431
    assert node.get("/v1/runs?text=" + "x" * 201)[0] == 400
    assert node.get("/v1/runs?text=" + "%F0%9F%98%80%00%E2%80%AE%27%25_")[0] == 200


def test_the_files_on_the_disk_are_compared_with_the_configuration_in_force(node):
    flows = node.config / "flows.conf"
    text = flows.read_text()
    _, headers, before = node.get("/v1/config")
    assert (before["is_in_force"], before["findings"]) == (True, [])
    flows.write_text(text + "\n9\nTO nobody 1\nGET\n")
    status, _, after = node.request("GET", "/v1/config", If_None_Match=headers["etag"])
    flows.write_text(text)
    assert (status, after["on_disk"], after["is_in_force"]) == (200, None, False)
    assert after["findings"][0]["code"] == "F104"
    assert after["digest"] == before["digest"]
