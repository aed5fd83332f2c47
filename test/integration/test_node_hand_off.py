"""Real nodes: hand-offs, and peers that fail."""

from __future__ import annotations

import json
import threading

import pytest

from fractal_rm.domain.state import State
from nodes import wait_until
from ports import free_port


def node_at(port: int, endpoint: str, **node_keys):
    """The content of a nodes.conf with node 2 at this address. ``node_keys`` are further keys."""
    address = {"protocol": "http", "ip": "127.0.0.1", "port": port, "endpoint": endpoint}
    config = {**address, **node_keys}
    return {"2": {"config": config}}


def test_a_handed_off_run_executes_once(make, components):
    receiver = make("receiver").start()
    sending_node = make("sender", balancer=components.port)
    sending_node.add_peer(receiver)
    sending_node.start()
    components.answers["/LB/id_node"] = (200, '{"id_node": 2}')
    answer = sending_node.outcome("1")
    assert (answer["state"], answer["reason"]) == ("handed-off", "node 2 has accepted the run")
    run = wait_until(lambda: receiver.history.run(answer["run"]))
    wait_until(lambda: receiver.history.run(answer["run"]).summary.state is State.SUCCEEDED)
    assert run.summary.source == "peer"
    assert set(components.per_key().values()) == {1}


def test_a_receiver_that_is_killed_after_its_commit_executes_a_repeated_offer_once(
    make, components
):
    receiver = make("receiver").start()
    sending_node = make("sender", balancer=components.port)
    # A proxy delivers the first offer, kills the receiver, and does not pass on the response.
    offers = []
    offered_again = threading.Event()

    def proxy(request, body):
        if body:  # a request without a body only asks what the receiver is
            offers.append(body)
        status, _, answer = receiver.request(
            request.command, "/startrm", body or None, Content_Type="application/json"
        )
        if len(offers) > 1:
            offered_again.set()
        elif body:
            receiver.kill()
            receiver.start()
            offered_again.wait(60)
        return status, json.dumps(answer)

    components.answers["/proxy"] = proxy
    components.answers["/LB/id_node"] = (200, '{"id_node": "2"}')
    sending_node.write("nodes", node_at(components.port, "proxy", peer="fractal"))
    sending_node.start()
    answer = sending_node.outcome("1")
    assert (answer["state"], answer["reason"]) == ("handed-off", "node 2 has accepted the run")
    assert offered_again.is_set()
    assert len({json.loads(body)["epoch"] for body in offers}) == 1
    wait_until(lambda: [run.state for run in receiver.runs()] == [State.SUCCEEDED])
    assert sending_node.runs(State.SUCCEEDED) == []


def problem(code: str, **fields: object) -> str:
    """A problem document of a node of this program."""
    return json.dumps({"type": f"urn:fractal-rm:{code}", **fields})


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        ((200, "200\n"), "handed-off", "answered as a plain peer"),
        ((500, "<html>no"), "succeeded", "node 2 answered 500: <html>no"),
        ((404, "{}"), "succeeded", "node 2 answered 404"),
        ((429, "{}"), "succeeded", "node 2 answered 429"),
        ((503, "{}"), "succeeded", "node 2 answered 503"),
        (
            (503, problem("draining", detail="the node\n is drained")),
            "succeeded",
            "node 2 refused the run (503): the node is drained",
        ),
        (
            (409, problem("a-later-one", title="Some title")),
            "succeeded",
            "node 2 refused the run (409): Some title",
        ),
        ((409, problem("a-later-one")), "succeeded", "node 2 answered 409: {"),
        ((409, problem("a-later-one", detail=7)), "succeeded", "node 2 answered 409: {"),
        (
            (401, problem("unauthenticated", detail="the token pair-1 has expired")),
            "succeeded",
            "node 2 refused the run (401): the token pair-1 has expired; join the two nodes again,",
        ),
        ("hang", "succeeded", "node 2 could not be reached: no answer"),
        ("close", "succeeded", "node 2 could not be reached: the connection was closed"),
        ("garbage", "succeeded", "node 2 could not be reached"),
        (None, "succeeded", "node 2 could not be reached"),
    ],
)
def test_a_run_ends_after_each_kind_of_response_of_a_peer(make, components, answer, state, reason):
    node = make(balancer=components.port)
    components.answers["/LB/id_node"] = (200, '{"id_node": 2}')
    components.answers["/peer"] = answer
    port = free_port() if answer is None else components.port
    node.write("nodes", node_at(port, "peer", timeout_s=0.3 if answer == "hang" else 20))
    node.start()
    outcome = node.outcome()
    assert outcome["state"] == state
    assert reason in outcome["reason"]


def offers_to(components, path: str):
    """The offers that the components have got at a path. A request without a body is a question."""
    return [json.loads(body) for each, _, body in components.requests if each == path and body]


def test_an_offer_is_a_message_of_the_original_with_additional_keys(make, components):
    node = make(balancer=components.port)
    node.edit("comm", node__id="7")
    components.answers["/LB/id_node"] = (200, '{"id_node": 2}')
    node.write("nodes", node_at(components.port, "peer"))
    node.start()
    run = node.trigger("1", {"a": 1}, ask_balancer=True, Prefer="wait=30")[2]["run"]
    (body,) = offers_to(components, "/peer")
    assert len(body.pop("definition")) == 24
    assert body == {
        "payload": {"a": 1}, "id_flow": "1", "is_load_balancing": True,
        "run": run, "epoch": 1, "sender": "7", "origin": "7",
    }  # fmt: skip


def test_an_offer_contains_the_remaining_time_of_the_run(make, components):
    node = make(balancer=components.port)
    components.answers["/LB/id_node"] = (200, '{"id_node": 2}')
    node.write("nodes", node_at(components.port, "peer"))
    node.start()
    node.trigger(ask_balancer=True, Prefer="wait=30", Fractal_Time_Left="60000")
    (body,) = offers_to(components, "/peer")
    assert 0 < body["deadline_ms"] <= 60_000
