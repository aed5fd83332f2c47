"""Real nodes whose balancer or components fail."""

from __future__ import annotations

import pytest

from components import Components
from fractal_rm.domain.state import State
from nodes import FLOWS, NodeProcess, wait_until


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, '{"id_node": null}'), "the balancer chose this node"),
        ((200, '\ufeff{"id_node": null}'), "the balancer chose this node"),
        ((200, '{"id_node": 99}'), "which nodes.conf does not have"),
        ((200, '{"id_node": "1"}'), "which is this node"),
        ((200, "<html>busy</html>"), "its answer is not"),
        ((200, '{"node": 1}'), "its answer is not"),
        ((200, '{"id_node": [1]}'), "its answer is not"),
        ((200, "\ufffd"), "its answer is not"),
        ((200, b"\xff\xd8\0\x1b"), "(byte 0 is not UTF-8): 4 bytes"),
        ((503, b"?", {"Content-Encoding": "br"}), "status 503: ?"),
        ((500, "{}"), "status 500"),
        ((302, '{"id_node": 2}', {"Location": "/LB/"}), "status 302, pointing to /LB/"),
        ("close", "closed without an answer"),
        ("garbage", "not HTTP/1.1"),
    ],
)
def test_a_run_is_executed_here_if_the_balancer_fails(balanced, answer, reason):
    node, components = balanced
    components.answers["/LB/id_node"] = answer
    outcome = node.outcome()
    assert outcome["state"] == "succeeded"
    assert reason in outcome["reason"]


@pytest.fixture
def balanced(node_and_balancer):
    """A node and its balancer, shared by many tests. The answers of earlier tests are cleared."""
    _, components = node_and_balancer
    components.answers.clear()
    return node_and_balancer


@pytest.fixture(scope="module")
def node_and_balancer(tmp_path_factory):
    components = Components()
    folder = tmp_path_factory.mktemp("balanced")
    node = NodeProcess(folder / "n", components=components.port, balancer=components.port,
                       mode="api")  # fmt: skip
    node.edit("comm", node__id="1")
    node.start()
    yield node, components
    components.stop()
    assert node.stop() == 0
    assert "Traceback" not in node.log


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, "out of paper"), "status 500: out of paper"),
        ((404, ""), "status 404"),
        ("close", "closed without an answer"),
        ("garbage", "not HTTP/1.1"),
    ],
)
def test_a_bad_answer_of_a_component_fails_only_its_own_run(balanced, answer, reason):
    node, components = balanced
    components.answers["/LB/id_node"] = (200, '{"id_node": null}')
    components.answers["/endpoint2"] = answer
    outcome = node.outcome("2")
    assert (outcome["state"], outcome["reason"].partition(": ")[0]) == (
        "failed", "step 1, component1 2",
    )  # fmt: skip
    assert reason in outcome["reason"]
    assert node.outcome("1")["state"] == "succeeded"


def test_the_timeout_ends_the_wait_of_a_run_for_a_balancer_that_hangs(make, components):
    node = make(balancer=components.port)
    node.edit("load_balancer", timeout_s=0.3)
    components.answers["/LB/id_node"] = "hang"
    outcome = node.start().outcome()
    assert outcome["state"] == "succeeded"
    assert "no answer within the time limit" in outcome["reason"]


def test_a_component_that_hangs_fails_only_its_own_run(make, components):
    node = make()
    node.edit("components", component1__config__timeout_s=0.3)
    (node.config / "flows.conf").write_text(FLOWS + "\n9\nTO component2 1\nGET\n")
    components.answers["/endpoint2"] = "hang"
    node.start()
    outcome = node.outcome("2")
    assert outcome["state"] == "failed"
    assert "no answer within the time limit" in outcome["reason"]
    assert node.outcome("9")["state"] == "succeeded"


def test_a_payload_can_be_sent_as_a_python_repr_like_an_original_sends_it(make, components):
    node = make()
    node.edit("components", component1__config__body="python-repr")
    node.start()
    node.trigger("1", {"a": "x", "b": [True, None]}, Prefer="wait=30")
    assert components.requests[0].body == b"{'payload': [{'a': 'x', 'b': [True, None]}]}"


def test_a_component_that_dies_and_returns_gets_few_calls_meanwhile_and_delays_only_its_flow(make):
    machine, node = Components(), make()
    machine.answers["/endpoint1"] = (500, "broken")
    circuit = {"least_calls": 4, "open_s": 0.2}
    node.edit("components", component1__config__port=machine.port, component1__config__limit=4,
              component1__config__circuit=circuit)  # fmt: skip
    text = "1\nTO component1 1\nGET\n  RETRY 100 EVERY 50ms\n\n9\nTO component2 1\nGET\n"
    (node.config / "flows.conf").write_text(text)
    node.start()
    for _ in range(20):
        assert node.trigger("1").status == 200
    wait_until(lambda: "circuit_opened" in node.log)
    assert all(node.outcome("9")["state"] == "succeeded" for _ in range(20))
    machine.answers["/endpoint1"] = "close"  # connections that the node has kept
    machine.stop()
    assert len(machine.requests) < 30  # without the circuit, about 80 in each 50 ms
    assert "the circuit of component1 is " in node.checks()["components"]
    back = Components(port=machine.port)
    wait_until(lambda: len(node.runs(State.SUCCEEDED)) == 40)
    back.stop()
    assert node.log.count("circuit_opened") == node.log.count("circuit_closed") == 1
