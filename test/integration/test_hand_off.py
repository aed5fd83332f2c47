"""Hand-offs. A plain peer gets a run once, a node of this program gets repeated offers."""

from __future__ import annotations

import asyncio
import threading

import msgspec
import pytest

from engine_stage import Stage, config, nodes, until
from engine_stage import flows as compiled
from fractal_rm.adapters.http1 import Http1Caller
from fractal_rm.adapters.memory import described_node
from fractal_rm.adapters.peers import HttpPeers
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.config.model import Bounds
from fractal_rm.domain.facts import Placed
from fractal_rm.domain.handoff.messages import (
    NoAnswer,
    NoReceipt,
    OfferRefused,
    OlderNode,
    PlainPeer,
    Receipt,
)
from fractal_rm.domain.node_description import NodeDescription
from fractal_rm.domain.state import State
from nodes import NodeProcess, wait_until

SILENT = NoAnswer("no answer", sent=True)
DESCRIPTION = msgspec.json.encode(described_node()).decode()
PLAIN = "node 2 answered as a plain peer, which cannot promise that it executes the run"


async def offer_to(original, flow: str = "2", **node_keys):
    """Offer a run to a fake original. Returns the outcome and the facts of the run.

    ``node_keys``: keys of the original in nodes.conf.
    """
    original.flows = original.flows or {flow: lambda _: None}
    peers = nodes(port=original.port, **{"timeout_s": 1, "peer": "original", **node_keys})
    async with Stage(nodes=peers) as stage:
        stage.dependencies.peers = HttpPeers(Http1Caller())
        stage.balancer.answer = "2"
        accepted = await stage.send(flow)
        outcome = await stage.wait_for_outcome(accepted.run)
        return outcome, stage.disk.facts(accepted.run)


def maybe_twice(facts) -> bool:
    """Whether the facts record that two nodes may have executed the run."""
    return any(isinstance(fact, Placed) and fact.maybe_twice is True for fact in facts)


async def test_the_original_executes_an_offered_run_once(original):
    outcome, _ = await offer_to(original, timeout_s=20, peer="original")
    assert (outcome.state, outcome.reason) == (State.HANDED_OFF, PLAIN)
    assert (original.offered, original.executed) == (1, [("2", "p")])


async def test_an_original_that_does_not_answer_gets_one_offer_and_may_execute_the_run(original):
    original.pause()
    outcome, facts = await offer_to(original)
    assert outcome.state is State.SUCCEEDED
    assert outcome.reason == (
        "node 2 did not answer: no answer within the time limit;"
        " the run may have been executed there too"
    )
    assert maybe_twice(facts)
    original.resumed.set()
    await until(lambda: original.executed == [("2", "p")])
    assert original.offered == 1


async def test_an_offer_is_not_repeated_when_a_reused_connection_closes(
    original,
):
    original.flows = {"2": lambda _: None}
    async with Stage(nodes=nodes(port=original.port, timeout_s=20, peer="original")) as stage:
        stage.dependencies.peers = HttpPeers(Http1Caller())
        stage.balancer.answer = "2"
        assert (await stage.run("2")).state is State.HANDED_OFF
        original.closes_unanswered = True
        assert (await stage.run("2")).state is State.SUCCEEDED
    assert len(original.executed) == 2


def fail_with_key_error(_payload):
    raise KeyError("component9")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            {"closes_unanswered": True},
            "node 2 did not answer: the connection was closed without an answer",
        ),
        (
            {"flows": {"2": fail_with_key_error, "3": fail_with_key_error}},
            "node 2 answered 500: <!doctype html>",
        ),
        ({"gateway": 502}, "node 2 answered 502: <h1>Bad Gateway</h1>"),
        ({"gateway": 504}, "node 2 answered 504: <h1>Bad Gateway</h1>"),
    ],
)
@pytest.mark.parametrize(("flow", "state"), [("2", State.SUCCEEDED), ("3", State.UNKNOWN)])
async def test_a_run_that_an_original_may_have_executed_runs_here_only_if_it_is_idempotent(
    original, fault, reason, flow, state
):
    for attribute, value in fault.items():
        setattr(original, attribute, value)
    outcome, facts = await offer_to(original, flow, timeout_s=20)
    assert outcome.state is state
    assert outcome.reason.startswith(reason)
    assert maybe_twice(facts) is (state is State.SUCCEEDED)
    await until(lambda: original.executed)
    assert (original.offered, original.executed) == (1, [(flow, "p")])


@pytest.mark.parametrize(
    ("flow", "rule", "state"),
    [
        ("2", "unknown", State.UNKNOWN),
        ("2", "run-here", State.SUCCEEDED),
        ("3", "run-here", State.SUCCEEDED),
    ],
)
async def test_the_key_after_silence_sets_whether_an_unanswered_run_is_executed_here(
    original, flow, rule, state
):
    original.closes_unanswered = True
    outcome, _ = await offer_to(original, flow, timeout_s=20, after_silence=rule)
    assert (outcome.state, original.offered) == (state, 1)


async def test_a_run_is_not_idempotent_if_a_component_of_its_sub_flow_is_not_idempotent(original):
    flows = compiled("6\nRUN 7 payload\n\n7\nTO once 1\nPOST payload\n")
    original.closes_unanswered = True
    peers = nodes(port=original.port, timeout_s=20, peer="original")
    async with Stage(nodes=peers, flows=flows) as stage:
        stage.dependencies.peers = HttpPeers(Http1Caller())
        stage.balancer.answer = "2"
        outcome = await stage.run("6")
    assert outcome.state is State.UNKNOWN
    assert outcome.reason.endswith("component once is not idempotent")


async def test_a_run_whose_deadline_passes_while_a_plain_peer_does_not_answer_is_unknown(original):
    original.pause()
    peers = nodes(port=original.port, timeout_s=1, peer="original")
    async with Stage(nodes=peers) as stage:
        stage.dependencies.peers = HttpPeers(Http1Caller())
        stage.balancer.answer = "2"
        accepted = await stage.send("2", deadline_ms=5_000)
        await until(lambda: original.offered)
        stage.clock.ms += 6_000
        outcome = await stage.wait_for_outcome(accepted.run)
    assert outcome.state is State.UNKNOWN
    assert outcome.reason.endswith(
        "the run may have been executed there, and the time limit of the run has passed"
    )


def count_doubts(stage) -> int:
    """How often ``offer_in_doubt`` was logged."""
    return stage.telemetry.events.count("offer_in_doubt")


# --- a crash before the answer to an offer -----------------------------------------------------


def node_with_peer(tmp_path, components, original, **node_keys) -> NodeProcess:
    """A node whose balancer places each run on the original, which has these keys in nodes.conf."""
    node = NodeProcess(tmp_path / "n", components=components.port, balancer=components.port,
                       mode="api")  # fmt: skip
    config = {"protocol": "http", "ip": "127.0.0.1", "port": original.port, "endpoint": "startrm"}
    node.write("nodes", {"2": {"config": {**config, **node_keys}}})
    components.answers["/LB/id_node"] = (200, '{"id_node": 2}')
    return node


def test_an_offer_that_a_crash_left_in_doubt_is_not_repeated_to_a_plain_peer(
    tmp_path, components, original
):
    original.flows = {"1": lambda _: None, "2": lambda _: None}
    original.pause()
    node = node_with_peer(tmp_path, components, original, peer="original")
    node.edit("components", component1__config__idempotent=False, component2__config={
        "protocol": "http", "ip": "127.0.0.1", "port": components.port,
        "endpoints": {"1": "endpoint1", "2": "endpoint2"}})  # fmt: skip
    (node.config / "flows.conf").write_text("1\nTO component1 1\nGET\n\n2\nTO component2 1\nGET\n")
    node.start()
    other_run, idempotent_run = (
        node.trigger(flow, ask_balancer=True)[2]["run"] for flow in ("1", "2")
    )
    wait_until(lambda: original.offered == 2)
    node.kill()
    node.start()
    wait_until(lambda: all(run.state.final for run in node.runs()))
    runs = {run.id: run for run in node.runs()}
    assert runs[other_run].state is State.UNKNOWN
    assert runs[idempotent_run].state is State.SUCCEEDED
    assert (
        "whose answer is not known; the run may have been executed there too"
        in runs[idempotent_run].reason
    )
    assert original.offered == 2
    counts_by_flow = {counts.flow: counts for counts in SqliteHistory(node.state).flow_counts()}
    assert (counts_by_flow["1"].maybe_twice, counts_by_flow["2"].maybe_twice) == (0, 1)
    assert counts_by_flow["2"].states == {State.SUCCEEDED: 1}
    assert node.problems() == []


@pytest.mark.parametrize(
    ("peers", "kind"),
    [({}, PlainPeer()), (nodes(peer="fractal"), OlderNode()), (nodes(), described_node())],
    ids=["not in nodes.conf", "fractal in nodes.conf", "describes itself"],
)
async def test_an_offer_in_doubt_is_not_repeated_even_if_the_peer_becomes_known_later(peers, kind):
    """A node that replaced an original does not know which runs the original executed."""
    first_stage = Stage()
    async with first_stage:
        first_stage.balancer.answer, first_stage.peers.answer_offer = (
            "2",
            hangs_until(asyncio.Event()),
        )
        run_id = (await first_stage.send("3")).run
        await until(lambda: first_stage.peers.offers)
        first_stage.crash()
    restarted = Stage(first_stage.disk, nodes=peers)
    restarted.peers.kinds["2"] = kind
    async with restarted:
        await until(lambda: restarted.state(run_id).final)
        assert restarted.state(run_id) is State.UNKNOWN
        assert (restarted.called_endpoints(), restarted.peers.offers) == ([], [])


async def test_a_run_that_another_node_may_have_accepted_is_parked_after_three_crashes():
    peers, released = {"nodes": nodes(peer="fractal")}, asyncio.Event()
    first_stage = Stage(**peers)
    await first_stage.node.start()
    first_stage.balancer.answer, first_stage.peers.answer_offer = "2", hangs_until(released)
    run_id = (await first_stage.send("3")).run
    await until(lambda: first_stage.peers.offers)
    first_stage.crash()
    for _ in range(2):
        stage = Stage(first_stage.disk, **peers)
        stage.peers.answer_offer = hangs_until(released)
        await stage.node.start()
        await until(lambda stage=stage: stage.peers.offers)
        stage.crash()
    async with Stage(first_stage.disk, **peers) as restarted:
        await until(lambda: restarted.state(run_id) is State.PARKED)
        assert "offered to node 2" in first_stage.disk.facts(run_id)[-1].reason
        assert (count_doubts(restarted), restarted.peers.offers) == (1, [])
        restarted.peers.answer_offer = gives_receipts
        assert restarted.node.release_parked() == 1
        await until(lambda: restarted.state(run_id) is State.HANDED_OFF)
        assert (restarted.called_endpoints(), len(restarted.peers.offers)) == ([], 1)


@pytest.mark.parametrize(
    ("status", "later_facts"),
    [
        (200, ["Offered", "Settled"]),
        (503, ["Offered", "Placed", "Restarted", "Finished", "Settled"]),
    ],
    ids=["accepted by node 2", "executed here"],
)
async def test_a_crash_before_a_run_was_offered_does_not_count_as_an_attempt(status, later_facts):
    async def take(*_):
        return OfferRefused("busy", status) if status != 200 else NoReceipt()

    options = {"nodes": nodes(peer="original", limit=1), "bounds": Bounds(max_attempts=1)}
    first_stage = Stage(**options)
    await first_stage.node.start()
    first_stage.balancer.answer, first_stage.peers.answer_offer = "2", hangs_until(asyncio.Event())
    offered, waiting = [(await first_stage.send("2")).run for _ in range(2)]
    await until(
        lambda: first_stage.peers.offers and first_stage.facts(waiting) == ["Accepted", "Placed"]
    )
    first_stage.crash()
    restarted = Stage(first_stage.disk, **options)
    restarted.balancer.answer, restarted.peers.answer_offer = "2", take
    async with restarted:
        await until(lambda: restarted.state(waiting).final)
        assert restarted.facts(waiting)[3:] == later_facts
        assert restarted.state(offered) is State.PARKED


# --- what a peer is -----------------------------------------------------------------------------


def with_flow_12():
    flow = config().flows["2"]
    return {"2": flow, "12": msgspec.structs.replace(flow, id="12")}


async def gives_receipts(_node, offer):
    return Receipt(offer.run, offer.epoch)


async def gives_no_receipt(*_):
    return NoReceipt()


async def test_a_flow_that_an_original_cannot_run_is_offered_only_to_a_node_of_this_program():
    async with Stage(flows=with_flow_12()) as stage:
        stage.balancer.answer, stage.peers.answer_offer = "2", gives_receipts
        outcome = await stage.run("12")
        assert (outcome.state, stage.peers.offers) == (State.SUCCEEDED, [])
        assert outcome.reason.startswith("node 2 runs another program, perhaps the original")
    async with Stage(flows=with_flow_12()) as stage:
        stage.balancer.answer, stage.peers.answer_offer = "2", gives_receipts
        stage.peers.kinds["2"] = described_node()
        assert (await stage.run("12")).state is State.HANDED_OFF


async def test_a_peer_is_asked_once_what_it_is():
    async with Stage() as stage:
        stage.balancer.answer, stage.peers.answer_offer = "2", gives_receipts
        stage.peers.kinds["2"] = described_node()
        for _ in range(3):
            assert (await stage.run("2")).state is State.HANDED_OFF
        assert stage.peers.questions == 1
        assert stage.peers.runs_this_program == [True, True, True]


async def test_an_original_that_nodes_conf_names_is_not_asked_what_it_is():
    async with Stage(nodes=nodes(peer="original")) as stage:
        stage.balancer.answer, stage.peers.answer_offer = "2", gives_no_receipt
        assert (await stage.run("2")).reason == PLAIN
        assert (stage.peers.questions, len(stage.peers.offers)) == (0, 1)


async def test_a_peer_that_does_not_say_what_it_is_gets_no_offer():
    async with Stage() as stage:
        stage.balancer.answer, stage.peers.kinds["2"] = "2", SILENT
        outcome = await stage.run("2")
        assert (outcome.state, stage.peers.offers) == (State.SUCCEEDED, [])
        assert outcome.reason == "node 2 could not be reached: no answer"


async def test_a_peer_that_is_silent_for_long_does_not_delay_the_next_runs(monkeypatch):
    monkeypatch.setattr("fractal_rm.domain.handoff.sender.pause_s", lambda *_: 0.001)
    async with Stage() as stage:
        stage.balancer.answer = "2"

        async def describe(_node):
            stage.peers.questions += 1
            stage.clock.ms += 3_000
            return NoAnswer("no connection within 3 s", sent=False)

        stage.peers.describe = describe
        for _ in range(3):
            assert "no connection within 3 s" in (await stage.run("2")).reason
        assert stage.peers.questions == 1
        stage.clock.ms += 6_000
        await stage.run("2")
        assert stage.peers.questions == 2


async def test_a_peer_that_gives_no_receipt_is_asked_again_what_it_is():
    async with Stage(flows=with_flow_12()) as stage:
        stage.balancer.answer, stage.peers.answer_offer = "2", gives_no_receipt
        stage.peers.kinds["2"] = described_node()
        outcome = await stage.run("12")
        assert outcome.state is State.SUCCEEDED
        reason = "gave no receipt, and the original Runtime Manager cannot run flow 12"
        assert reason in outcome.reason
        stage.peers.kinds["2"] = PlainPeer()
        assert "perhaps the original" in (await stage.run("12")).reason
        assert len(stage.peers.offers) == 1


# --- another program at the address of a node of this program ----------------------------------


class OnceAnswering(HttpPeers):
    """Real peers, but the first answer to the question what a peer is is given."""

    def __init__(self, kind) -> None:
        super().__init__(Http1Caller())
        self._kinds = [kind]

    async def describe(self, node):
        return self._kinds.pop() if self._kinds else await super().describe(node)


@pytest.mark.parametrize(("flow", "state"), [("2", State.SUCCEEDED), ("3", State.UNKNOWN)])
async def test_an_original_that_replaced_a_node_of_this_program_is_not_offered_the_run_again(
    original, flow, state
):
    may_end = threading.Event()
    original.flows = {flow: lambda _: may_end.wait(60)}
    peers = nodes(port=original.port, timeout_s=1)
    async with Stage(nodes=peers) as stage:
        stage.dependencies.peers = OnceAnswering(described_node())
        stage.balancer.answer = "2"
        outcome = await stage.run(flow)
    assert outcome.state is state
    assert "where no node of this program answers now; the run may have been" in outcome.reason
    may_end.set()
    await until(lambda: original.executed)
    assert original.executed == [(flow, "p")]


async def test_a_run_waits_while_nodes_conf_is_wrong_about_a_peer(
    monkeypatch,
):
    monkeypatch.setattr("fractal_rm.domain.handoff.sender.MAX_PAUSE_S", 0.01)
    monkeypatch.setattr("fractal_rm.domain.handoff.sender.pause_s", lambda *_: 0.001)
    async with Stage(nodes=nodes(peer="fractal")) as stage:
        stage.balancer.answer = "2"

        async def replaced(*_):
            stage.peers.kinds["2"] = PlainPeer()
            return NoReceipt()

        stage.peers.answer_offer = replaced
        accepted = await stage.send("3")
        await until(lambda: stage.peers.questions > 5)
        assert (len(stage.peers.offers), count_doubts(stage)) == (1, 1)
        set_nodes(stage, nodes(peer="original"))
        assert (await stage.wait_for_outcome(accepted.run)).state is State.UNKNOWN
        assert len(stage.peers.offers) == 1


async def test_a_peer_that_cannot_be_recognized_is_asked_again_and_the_doubt_is_logged_once(
    monkeypatch,
):
    monkeypatch.setattr("fractal_rm.domain.handoff.sender.pause_s", lambda *_: 0.001)
    async with Stage(nodes=nodes(peer="fractal")) as stage:
        stage.balancer.answer = "2"

        async def take(*_):
            stage.peers.answer_offer, stage.peers.kinds["2"] = gives_receipts, SILENT
            return SILENT

        stage.peers.answer_offer = take
        accepted = await stage.send("3")
        await until(lambda: stage.peers.questions > 5)
        assert (len(stage.peers.offers), count_doubts(stage)) == (1, 1)
        stage.peers.kinds["2"] = described_node()
        assert (await stage.wait_for_outcome(accepted.run)).state is State.HANDED_OFF
        assert len(stage.peers.offers) == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((200, DESCRIPTION), NodeDescription),
        ((400, '{"type": "urn:fractal-rm:malformed"}'), OlderNode),
        ((403, '{"type": "urn:fractal-rm:peer-refused"}'), OlderNode),
        ((503, '{"type": "urn:fractal-rm:draining"}'), OlderNode),
        ((400, '{"message": "Failed to decode JSON object"}'), PlainPeer),
        ((405, "<!doctype html>"), PlainPeer),
        ((200, "200\n"), PlainPeer),
        ((200, '{"kind": "another", "version": "1"}'), PlainPeer),
        ((502, "<h1>Bad Gateway</h1>"), NoAnswer),
        ((408, ""), NoAnswer),
        ("close", NoAnswer),
    ],
)
async def test_a_node_of_this_program_is_recognized_by_its_description_or_by_its_problem_details(
    components, answer, kind
):
    components.answers["/n2"] = answer
    found = await HttpPeers(Http1Caller()).describe(nodes(port=components.port)["2"])
    assert isinstance(found, kind)
    assert {body for _, _, body in components.requests} == {b""}


# --- nodes.conf changes during an offer --------------------------------------------------------


def set_nodes(stage, peers) -> None:
    """Replace the nodes of nodes.conf."""
    stage.dependencies.config = msgspec.structs.replace(stage.dependencies.config, nodes=peers)


def hangs_until(event: asyncio.Event):
    async def take(*_):
        await event.wait()
        return SILENT

    return take


async def test_a_run_that_waits_for_a_slot_is_executed_here_if_its_node_is_removed():
    released = asyncio.Event()
    async with Stage(nodes=nodes(limit=1)) as stage:
        stage.balancer.answer, stage.peers.answer_offer = "2", hangs_until(released)
        await stage.send("2")
        await until(lambda: stage.peers.offers)
        waiting = await stage.send("2")
        await until(lambda: "Placed" in stage.facts(waiting.run))
        set_nodes(stage, {})
        released.set()
        outcome = await stage.wait_for_outcome(waiting.run)
        assert outcome.state is State.SUCCEEDED
        assert outcome.reason == "nodes.conf no longer has node 2"
        assert len(stage.peers.offers) == 1


async def test_the_deadline_of_a_run_ends_its_wait_for_a_slot_of_a_node():
    async with Stage(nodes=nodes(limit=1)) as stage:
        stage.balancer.answer, stage.peers.answer_offer = "2", hangs_until(asyncio.Event())
        first = await stage.send("2")
        await until(lambda: stage.peers.offers)
        waiting = await stage.send("2", deadline_ms=5_000)
        await until(lambda: "Placed" in stage.facts(waiting.run))
        stage.clock.ms += 6_000
        stage.dependencies.timers.fire_due()
        assert (await stage.wait_for_outcome(waiting.run)).state is State.EXPIRED
        assert not stage.state(first.run).final
        stage.crash()


async def test_a_change_of_the_key_after_silence_applies_to_an_offer_in_progress():
    released = asyncio.Event()
    async with Stage() as stage:
        stage.balancer.answer, stage.peers.answer_offer = "2", hangs_until(released)
        accepted = await stage.send("2")
        await until(lambda: stage.peers.offers)
        set_nodes(stage, nodes(after_silence="unknown"))
        released.set()
        assert (await stage.wait_for_outcome(accepted.run)).state is State.UNKNOWN
