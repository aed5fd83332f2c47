"""The engine on in-memory adapters: runs are accepted, placed, handed off, executed, recovered."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from fractal_rm.adapters.memory.journal import Disk
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call import Reply
from fractal_rm.domain.errors import (
    BadReply,
    Broken,
    Busy,
    CallTimedOut,
    ConnectFailed,
    Draining,
    JournalUnavailable,
    KeyReused,
    Malformed,
    OwnRun,
    UnknownFlow,
    WrongShape,
)
from fractal_rm.domain.facts import Begun, Dead, Placed
from fractal_rm.domain.handoff import NoAnswer, NoReceipt, OfferRefused, Receipt
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, Source
from fractal_rm.engine import accept
from fractal_rm.engine.node import Node
from worlds import URL, ManualClock, Stage, config, flows, settle, until

HOUR_MS = 3_600_000


# --- execution -----------------------------------------------------------------------------------


async def test_calls_are_made_in_order_and_get_the_results_of_earlier_calls():
    async with Stage() as stage:
        outcome = await stage.run("1", payload={"x": [1, 2.50]})
        assert outcome.state is State.SUCCEEDED
        assert stage.called() == ["a/1", "b/1", "a/1"]
        assert [request.body for request in stage.components.requests] == [
            b'{"payload": [{"x": [1, 2.5]}]}',
            b'{"payload": ["from a/1"]}',
            b'{"payload": ["from a/1", "from b/1"]}',
        ]
        assert [msgspec.json.decode(r) for r in outcome.results] == [
            "from a/1",
            "from b/1",
            "from a/1",
        ]


async def test_each_call_has_its_own_idempotency_key():
    async with Stage() as stage:
        taken = await stage.send("1")
        await stage.ended(taken.run)
        keys = [request.headers["idempotency-key"] for request in stage.components.requests]
        assert keys == [f"{taken.run}:{n}" for n in (1, 2, 3)]


async def test_facts_are_written_in_order():
    async with Stage() as stage:
        taken = await stage.send("1")
        await stage.ended(taken.run)
    assert stage.facts(taken.run) == ["Accepted", "Placed", *["Finished"] * 3, "Settled"]


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_an_error_status_fails_the_step_and_the_run(status):
    async with Stage() as stage:
        stage.answers("b/1", "out of paper", status)
        outcome = await stage.run("1")
        assert outcome.state is State.FAILED
        assert outcome.reason == f"step 2, b 1: status {status}: out of paper"
        assert stage.called() == ["a/1", "b/1"]


@pytest.mark.parametrize(
    "error",
    [CallTimedOut("no answer within the time limit", sent=True), BadReply("not HTTP")],
)
async def test_a_call_that_may_have_arrived_is_not_repeated_without_retry(error):
    async with Stage() as stage:
        stage.raises("b/1", error)
        outcome = await stage.run("1")
        assert outcome.state is State.FAILED
        assert str(error) in outcome.reason
        assert stage.called() == ["a/1", "b/1"]


async def test_a_refused_connection_is_tried_three_times():
    async with Stage() as stage:
        stage.raises("b/1", ConnectFailed("refused"), ConnectFailed("refused"), None)
        assert (await stage.run("1")).state is State.SUCCEEDED
        stage.raises("b/1", ConnectFailed("refused"))
        outcome = await stage.run("1")
        assert (outcome.state, outcome.reason) == (State.FAILED, "step 2, b 1: refused")


async def test_a_call_that_must_not_be_repeated_is_recorded_before_it_is_sent():
    async with Stage() as stage:
        seen = []

        async def look(_):
            (run_id,) = stage.disk.runs
            seen.extend(stage.facts(run_id))
            return await answer(_)

        answer = stage.components.answers[f"{URL}/once/1"]
        stage.components.answers[f"{URL}/once/1"] = look
        assert (await stage.run("3")).state is State.SUCCEEDED
        assert seen == ["Accepted", "Placed", "Started"]


async def test_with_durable_step_each_call_waits_until_the_step_before_it_is_durable():
    async with Stage() as stage:
        seen = []

        def look(name):
            answer = stage.components.answers[f"{URL}/{name}"]

            async def looked(call):
                (run_id,) = stage.disk.runs
                seen.append(stage.facts(run_id))
                return await answer(call)

            stage.components.answers[f"{URL}/{name}"] = looked

        look("a/1")
        look("b/1")
        assert (await stage.run("5")).state is State.SUCCEEDED
        begun = ["Accepted", "Placed", "Started"]
        assert seen == [begun, [*begun, "Finished", "Started"]]


async def test_after_a_crash_in_the_second_try_of_a_once_only_call_the_run_is_unknown():
    stage = Stage()
    await stage.node.start()
    sent = asyncio.Event()

    async def answer(_):
        if not sent.is_set() and len(stage.components.requests) == 1:
            raise ConnectFailed("refused")
        sent.set()
        await asyncio.Event().wait()

    stage.components.answers[f"{URL}/once/1"] = answer
    run = (await stage.send("3")).run
    await sent.wait()
    await until(lambda: stage.facts(run)[-1] == "Started")
    stage.crash()
    async with Stage(stage.disk) as after:
        await after.ended(run)
        assert after.state(run) is State.UNKNOWN
        assert after.called() == []


async def test_a_call_that_waited_for_a_slot_is_made_after_a_restart():
    stage = Stage(bounds=Bounds(drain_s=0.01), once_limit=1)
    await stage.node.start()
    stage.holds("once/1")
    first, second = [(await stage.send("3")).run for _ in range(2)]
    await until(lambda: "Started" in stage.facts(first))
    await stage.node.drain()
    async with Stage(stage.disk) as after:
        await after.ended(first)
        await after.ended(second)
        assert (after.state(first), after.state(second)) == (State.UNKNOWN, State.SUCCEEDED)


async def test_no_run_begins_while_results_exceed_the_memory_bound():
    async with Stage(bounds=Bounds(max_inflight_bytes=100_000)) as stage:
        stage.answers("a/1", "x" * 60_000)
        go = stage.holds("b/1")
        for _ in range(50):
            await stage.send("1")
        await until(lambda: stage.called().count("b/1") >= 2)
        load = stage.load
        begun = load.in_flight
        await stage.send("1")
        await asyncio.sleep(0)
        assert load.in_flight == begun < 50
        go.set()
        await until(lambda: stage.node.unfinished == 0)
        assert load.result_bytes == load.held_bytes == 0


async def test_a_slow_component_does_not_delay_other_flows():
    bounds = Bounds(max_inflight_runs=10)
    async with Stage(bounds=bounds) as stage:
        go = stage.holds("slow/1")
        slow = [await stage.send("4") for _ in range(50)]
        for _ in range(20):
            assert (await stage.run("2")).state is State.SUCCEEDED
        go.set()
        await until(lambda: all(stage.state(taken.run).final for taken in slow))


async def test_thousands_of_runs_are_in_flight_at_once():
    async with Stage(bounds=Bounds(max_inflight_runs=5_000)) as stage:
        go = stage.holds("slow/1")
        for _ in range(3_000):
            await stage.send("4")
        await until(lambda: len(stage.components.requests) == 3_000)
        go.set()
        await until(lambda: stage.node.unfinished == 0)


async def test_the_limit_of_a_component_holds():
    components = dict(config().components)
    components["slow"] = msgspec.structs.replace(components["slow"], limit=3)
    async with Stage(components=components) as stage:
        go = stage.holds("slow/1")
        for _ in range(10):
            await stage.send("4")
        await until(lambda: len(stage.components.requests) == 3)
        go.set()
        await until(lambda: stage.node.unfinished == 0)
        assert len(stage.components.requests) == 10


@pytest.mark.parametrize(
    "flow",
    [
        "1\nTO a 1\nPOST item\n  FOREACH payload\n  LIMIT 9",
        "1\nORDER dataflow" + "\nTO a 1\nGET" * 9,
        "1\nORDER dataflow" + "\nRUN 2 payload" * 9 + "\n\n2\nTO a 1\nGET",
    ],
)
async def test_calls_of_runs_that_fan_out_share_half_of_the_connections(flow):
    """One component holds at most as many of the shared connections as it leaves free."""
    stage = Stage(flows=flows(f"{flow}\n"))
    stage.world.connections = 8
    stage.node = Node(stage.world, {})
    async with stage:
        under_way = most = 0

        async def answer(_):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1
            return Reply(200, b"", b"1")

        stage.components.answers[f"{URL}/a/1"] = answer
        for _ in range(3):
            await stage.send("1", payload=[0] * 9)
        await until(lambda: stage.node.unfinished == 0)
        assert (len(stage.components.requests), most) == (27, 2)


async def test_components_that_hang_in_fan_outs_leave_connections_for_others():
    """The first one gets half of the shared connections, and the second a quarter."""
    flow = "{0}\nTO {1} 1\nPOST item\n  FOREACH payload\n  LIMIT 9\n"
    texts = [flow.format(number, name) for number, name in enumerate(("a", "b", "slow"), start=1)]
    stage = Stage(flows=flows("\n".join(texts)))
    stage.world.connections = 8
    stage.node = Node(stage.world, {})
    async with stage:
        hangs = asyncio.Event()

        async def hang(_):
            await hangs.wait()
            return Reply(200, b"", b"1")

        for name in "ab":
            stage.components.answers[f"{URL}/{name}/1"] = hang
        stage.components.answers[f"{URL}/slow/1"] = Reply(200, b"", b"1")
        for number in "12":
            await stage.send(number, payload=[0] * 9)
        await until(lambda: len(stage.components.requests) == 3)
        for _ in range(2):
            await stage.send("3", payload=[0] * 9)
        await until(lambda: len(stage.components.requests) == 3 + 18)
        hangs.set()
        await until(lambda: stage.node.unfinished == 0)
        assert len(stage.components.requests) == 4 * 9


# --- placement -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "the balancer said here"),
        ("1", "the balancer named node 1, which is this one"),
        ("99", "the balancer named node '99', which nodes.conf does not have"),
        (
            CallTimedOut("no answer within the time limit", sent=True),
            "the balancer failed: no answer",
        ),
        (BadReply("its answer is not {'id_node': …}"), "the balancer failed: its answer is not"),
        (ConnectFailed("refused"), "the balancer failed: refused"),
    ],
)
async def test_a_run_executes_here_with_a_reason_when_the_balancer_names_no_other_node(
    answer, reason
):
    async with Stage() as stage:
        stage.balancer.answer = answer
        outcome = await stage.run("1")
        assert outcome.state is State.SUCCEEDED
        assert reason in outcome.reason


async def test_a_run_handed_off_to_this_node_executes_here_without_asking_the_balancer():
    async with Stage() as stage:
        stage.balancer.answer = "2"
        outcome = await stage.ended((await stage.offer()).run)
        assert outcome.state is State.SUCCEEDED
        assert stage.balancer.asked == 0


async def test_an_original_is_not_offered_a_flow_that_it_cannot_run():
    flows = {"12": msgspec.structs.replace(config().flows["2"], id="12")}
    async with Stage(flows=flows) as stage:
        stage.balancer.answer = "4"
        outcome = await stage.run("12")
        assert outcome.state is State.SUCCEEDED
        assert "an original, which cannot run flow 12" in outcome.reason
        assert stage.peers.offers == []


# --- hand-offs -----------------------------------------------------------------------------------


def peer(*answers):
    """A peer that gives each offer the next answer, and repeats the last one."""
    left = list(answers)

    async def take(_node, offer):
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer == "receipt":
            return Receipt(offer.run, offer.epoch)
        return NoReceipt() if answer == "plain" else answer

    return take


THEIRS, OTHER = "01M87NTQZMXFEQPS51973PM0F5", "01M87NTQZMXFEQPS51973PM0F6"
SILENT = NoAnswer("no answer within the time limit", sent=True)
UNSENT = NoAnswer("refused", sent=False)


@pytest.mark.parametrize(
    ("node", "answers", "state", "offers"),
    [
        ("2", ["receipt"], State.HANDED_OFF, 1),
        ("2", ["plain"], State.HANDED_OFF, 1),
        ("4", ["plain"], State.HANDED_OFF, 1),
        ("2", [UNSENT], State.SUCCEEDED, 3),
        ("2", [UNSENT, UNSENT, "receipt"], State.HANDED_OFF, 3),
        ("2", [OfferRefused("no", 404)], State.SUCCEEDED, 1),
        ("2", [OfferRefused("busy", 503)], State.SUCCEEDED, 1),
        ("2", [OfferRefused("a gateway's", 502), "plain"], State.SUCCEEDED, 1),
        ("2", [OfferRefused("it broke", 500), "plain"], State.SUCCEEDED, 1),
        ("2", [OfferRefused("a time limit", 408), "plain"], State.SUCCEEDED, 1),
        ("2", [SILENT, "plain"], State.SUCCEEDED, 1),
        ("4", [SILENT, "plain"], State.SUCCEEDED, 1),
        ("4", [UNSENT, SILENT, "plain"], State.SUCCEEDED, 2),
        ("3", [SILENT, SILENT, SILENT, SILENT, "receipt"], State.HANDED_OFF, 5),
        ("3", [SILENT, UNSENT, UNSENT, UNSENT, "receipt"], State.HANDED_OFF, 5),
        ("3", [SILENT, OfferRefused("busy", 503), "receipt"], State.HANDED_OFF, 3),
        ("3", [SILENT, OfferRefused("a proxy's", 404), "receipt"], State.HANDED_OFF, 3),
        ("3", [SILENT, OfferRefused("unknown flow", 404, "unknown-flow")], State.SUCCEEDED, 2),
        ("3", [OfferRefused("a fault", 500), "receipt"], State.HANDED_OFF, 2),
        ("3", ["plain", "receipt"], State.HANDED_OFF, 2),
        ("3", [UNSENT], State.SUCCEEDED, 3),
    ],
)
async def test_an_offered_run_is_handed_off_or_executes_here(
    monkeypatch, node, answers, state, offers
):
    monkeypatch.setattr("fractal_rm.domain.handoff.pause_s", lambda *_: 0.001)
    async with Stage() as stage:
        stage.balancer.answer = node
        stage.peers.take = peer(*answers)
        outcome = await stage.run("2")
        assert outcome.state is state
        assert len(stage.peers.offers) == offers
        assert {epoch for _, _, epoch in stage.peers.offers} == {1}
        assert stage.called() == ([] if state is State.HANDED_OFF else ["b/2"])


async def test_runs_offered_to_a_silent_peer_leave_their_slots_to_others(monkeypatch):
    monkeypatch.setattr("fractal_rm.domain.handoff.pause_s", lambda *_: 0.001)
    async with Stage(bounds=Bounds(max_inflight_runs=4)) as stage:
        asked = []

        async def ask():
            asked.append(1)
            return "3" if len(asked) <= 20 else None

        stage.balancer.ask = ask
        stage.peers.take = peer(SILENT)
        doubted = [await stage.send("2") for _ in range(20)]
        await until(lambda: len(asked) == 20)
        assert (await stage.run("2")).state is State.SUCCEEDED
        stage.peers.take = peer("receipt")
        for taken in doubted:
            await until(lambda taken=taken: stage.state(taken.run).final)
        assert {stage.state(taken.run) for taken in doubted} == {State.HANDED_OFF}


async def test_a_repeated_offer_is_sent_to_the_address_of_the_current_configuration(monkeypatch):
    monkeypatch.setattr("fractal_rm.domain.handoff.pause_s", lambda *_: 0.001)
    async with Stage() as stage:
        stage.balancer.answer = "3"

        async def take(node, offer):
            if node.name != "moved":
                return SILENT
            return Receipt(offer.run, offer.epoch)

        stage.peers.take = take
        taken = await stage.send("2")
        await until(lambda: len(stage.peers.offers) > 5)
        nodes = dict(stage.world.config.nodes)
        nodes["3"] = msgspec.structs.replace(nodes["3"], name="moved")
        await stage.node.reconfigure(msgspec.structs.replace(stage.world.config, nodes=nodes))
        await until(lambda: stage.state(taken.run) is State.HANDED_OFF)


async def test_a_repeated_offer_is_refused_as_unavailable_while_the_journal_is_blocked():
    async with Stage() as stage:
        go = stage.holds("a/1")
        await stage.offer(run=THEIRS, epoch=1)
        stage.journal.full = True
        with pytest.raises(JournalUnavailable):
            await stage.offer(run=THEIRS, epoch=1)
        stage.journal.full = False
        go.set()


async def test_an_offer_is_durable_before_it_is_sent():
    async with Stage() as stage:
        stage.balancer.answer = "2"

        async def take(_node, offer):
            assert stage.facts(offer.run) == ["Accepted", "Placed", "Offered"]
            return Receipt(offer.run, offer.epoch)

        stage.peers.take = take
        assert (await stage.run("1")).state is State.HANDED_OFF


async def test_a_repeated_offer_is_answered_with_the_run_that_exists():
    async with Stage() as stage:
        offer = {"run": THEIRS, "epoch": 1, "sender": "2"}
        first = await stage.offer(**offer)
        assert (first.run, first.epoch, first.duplicate) == (THEIRS, 1, False)
        await stage.ended(THEIRS)
        again = await stage.offer(**offer)
        assert (again.run, again.epoch, again.duplicate) == (THEIRS, 1, True)
        assert stage.called() == ["a/1", "b/1", "a/1"]


async def test_a_repeated_offer_is_answered_also_while_the_node_drains():
    stage = Stage()
    async with stage:
        go = stage.holds("slow/1")
        await stage.offer("4", run=THEIRS, epoch=1)
        stage.node.lifecycle.acceptance.closed = True
        again = await stage.offer("4", run=THEIRS, epoch=1)
        assert again.duplicate
        with pytest.raises(Draining):
            await stage.offer("4", run=OTHER, epoch=1)
        go.set()


async def test_a_node_refuses_an_offer_of_its_own_run_and_executes_it():
    async with Stage() as stage:
        stage.balancer.answer = "2"

        async def loop(_node, offer):
            with pytest.raises(OwnRun) as refusal:
                await stage.offer(run=offer.run, epoch=offer.epoch, sender=offer.sender)
            return OfferRefused(str(refusal.value), 409, OwnRun.code)

        stage.peers.take = loop
        outcome = await stage.run("2")
        assert outcome.state is State.SUCCEEDED
        assert stage.called() == ["b/2"]


# --- acceptance ----------------------------------------------------------------------------------


async def test_unknown_flows_and_malformed_triggers_are_refused():
    async with Stage() as stage:
        with pytest.raises(UnknownFlow, match="'99'"):
            await stage.send("99")
        with pytest.raises(WrongShape):
            await stage.node.receive(Arrival(Source.MQTT, b'{"id_flow": "1"}'))
        with pytest.raises(Malformed):
            await stage.node.receive(Arrival(Source.MQTT, b"{"))
        assert stage.disk.runs == {}


async def test_triggers_that_arrive_together_get_separate_answers(monkeypatch):
    def arrival(flow):
        return Arrival(Source.MQTT, f'{{"id_flow": "{flow}", "payload": 1}}'.encode())

    async with Stage() as stage:
        decode = accept.decode_trigger

        def broken(arrival, most):
            if b"666" in arrival.body:
                raise RuntimeError("an unforeseen error")
            return decode(arrival, most)

        monkeypatch.setattr(accept, "decode_trigger", broken)
        arrivals = [arrival("2"), arrival("99"), arrival("666"), arrival("2")]
        first, unknown, fault, second = await stage.node.receive_all(arrivals)
        assert [type(unknown), type(fault)] == [UnknownFlow, Broken]
        await until(lambda: stage.node.unfinished == 0)
        assert stage.state(first.run) is stage.state(second.run) is State.SUCCEEDED
        assert len(stage.disk.runs) == 2


async def test_a_run_executes_though_its_receiver_was_cancelled():
    async with Stage() as stage:
        receiving = asyncio.create_task(stage.send("2"))
        await asyncio.sleep(0)
        receiving.cancel()
        await until(lambda: stage.disk.runs and stage.node.unfinished == 0)
        (run_id,) = stage.disk.runs
        await until(lambda: stage.state(run_id) is State.SUCCEEDED)


async def test_a_dead_letter_keeps_the_message_and_the_reason():
    async with Stage() as stage:
        arrival = Arrival(Source.MQTT, b"\xff" * 100_000)
        await stage.node.set_aside(arrival, Malformed("not UTF-8 at byte 0"))
        ((fact,),) = [stage.disk.facts(run_id) for run_id in stage.disk.runs]
        assert isinstance(fact, Dead)
        assert (fact.code, fact.source) == ("malformed", "mqtt")
        assert fact.body == b"\xff" * 65_536


async def test_a_trigger_with_a_known_id_returns_the_same_run():
    async with Stage() as stage:
        go = stage.holds("slow/1")
        first = await stage.send("4", id="k")
        again = await stage.send("4", id="k")
        assert (again.run, again.duplicate) == (first.run, True)
        with pytest.raises(KeyReused):
            await stage.send("4", payload="other", id="k")
        go.set()
        await stage.ended(first.run)
        after = await stage.send("4", id="k")
        assert (after.run, after.state) == (first.run, State.SUCCEEDED)
        assert len(stage.components.requests) == 1


async def test_duplicates_that_arrive_at_the_same_time_make_one_run():
    async with Stage() as stage:
        taken = await asyncio.gather(*(stage.send("2", id="k") for _ in range(50)))
        assert len({each.run for each in taken}) == 1
        await until(lambda: stage.node.unfinished == 0)
        assert stage.called() == ["b/2"]


async def test_triggers_over_a_bound_are_refused_and_accepted_runs_succeed():
    async with Stage(bounds=Bounds(max_inflight_runs=2, max_waiting_runs=3)) as stage:
        go = stage.holds("slow/1")
        taken = []
        with pytest.raises(Busy) as refused:
            for _ in range(10):
                taken.append(await stage.send("4"))
        assert refused.value.retry_after_s
        assert 3 <= len(taken) <= 5
        go.set()
        await until(lambda: stage.node.unfinished == 0)
        assert [stage.state(each.run) for each in taken] == [State.SUCCEEDED] * len(taken)
        assert await stage.send("2")


async def test_the_bytes_of_unfinished_runs_are_bounded():
    async with Stage(bounds=Bounds(max_inflight_bytes=10_000)) as stage:
        go = stage.holds("slow/1")
        with pytest.raises(Busy, match="bytes"):
            for _ in range(20):
                await stage.send("4", payload="x" * 1_000)
        go.set()
        await until(lambda: stage.node.unfinished == 0)
        assert stage.load.held_bytes == 0


async def test_triggers_are_refused_while_the_disk_is_full_and_accepted_afterwards():
    async with Stage() as stage:
        stage.journal.full = True
        stage.node.watch_journal()
        with pytest.raises(JournalUnavailable) as refused:
            await stage.send("2")
        assert refused.value.retry_after_s
        assert not all(check.ok for check in stage.node.readiness())
        stage.journal.full = False
        stage.node.watch_journal()
        assert (await stage.run("2")).state is State.SUCCEEDED
        assert all(check.ok for check in stage.node.readiness())


async def test_senders_that_wait_for_a_full_disk_do_not_wake_each_other():
    async with Stage() as stage:
        stage.journal.full = True
        tries = []

        async def send_until_accepted():
            while True:
                tries.append(1)
                try:
                    return await stage.send("2")
                except Busy:
                    await stage.node.wait_for_room()

        waiting = [asyncio.create_task(send_until_accepted()) for _ in range(3)]
        await settle()
        assert len(tries) == 3
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert not stage.queue.capacity.refused
        stage.journal.full = False


async def test_asking_for_an_outcome_leaves_no_waiter_behind():
    async with Stage() as stage:
        go = stage.holds("slow/1")
        run = (await stage.send("4")).run
        for _ in range(10):
            assert await stage.node.outcome(run, 0) is None
        assert not stage.node.lifecycle.outcomes.waiting
        go.set()


async def test_a_paused_node_accepts_triggers_and_begins_no_run():
    async with Stage() as stage:
        stage.node.pause(True)
        taken = await stage.send("2")
        await settle()
        assert stage.called() == []
        stage.node.pause(False)
        await until(lambda: stage.state(taken.run) is State.SUCCEEDED)


# --- recovery ------------------------------------------------------------------------------------


async def crashed_in(flow: str, at: str, disk: Disk, clock: ManualClock) -> str:
    """Crash a node while the call ``at`` of a run is in flight; returns the id of the run."""
    stage = Stage(disk, clock)
    await stage.node.start()
    stage.holds(at)
    taken = await stage.send(flow)
    await until(lambda: stage.called()[-1:] == [at])
    await settle()  # until earlier facts are durable
    stage.crash()
    return taken.run


async def test_after_a_crash_a_run_resumes_at_the_first_unfinished_step_with_the_same_key():
    disk, clock = Disk(), ManualClock()
    run_id = await crashed_in("1", "b/1", disk, clock)
    async with Stage(disk, clock) as stage:
        await until(lambda: disk.runs[run_id].state is State.SUCCEEDED)
        assert stage.called() == ["b/1", "a/1"]
        assert stage.components.requests[0].headers["idempotency-key"] == f"{run_id}:2"
        assert stage.components.requests[0].body == b'{"payload": ["from a/1"]}'


async def test_after_a_crash_a_run_that_has_tried_calls_here_stays_here():
    """The balancer names another node after the crash; a failed call counts as tried."""
    disk, clock = Disk(), ManualClock()
    stage = Stage(disk, clock)
    await stage.node.start()
    stage.raises("b/2", ConnectFailed("refused"))
    taken = await stage.send("2")
    await until(lambda: "StepFailed" in stage.facts(taken.run))
    stage.crash()
    stage = Stage(disk, clock)
    stage.balancer.answer = "2"
    stage.peers.take = peer("receipt")
    async with stage:
        await until(lambda: disk.runs[taken.run].state is State.SUCCEEDED)
        assert stage.peers.offers == []


async def test_after_a_crash_a_run_that_was_placed_here_stays_here():
    disk, clock = Disk(), ManualClock()
    run_id = await crashed_in("2", "b/2", disk, clock)
    stage = Stage(disk, clock)
    stage.balancer.answer = "2"
    async with stage:
        await until(lambda: disk.runs[run_id].state is State.SUCCEEDED)
        assert stage.peers.offers == []


async def test_a_run_that_only_waited_at_a_crash_counts_no_attempt():
    disk, clock = Disk(), ManualClock()
    stage = Stage(disk, clock)
    await stage.node.start()
    stage.node.pause(True)
    run_id = (await stage.send("2")).run
    stage.crash()
    async with Stage(disk, clock, bounds=Bounds(max_attempts=1)):
        await until(lambda: disk.runs[run_id].state is State.SUCCEEDED)


async def test_after_a_crash_in_a_once_only_call_the_run_is_unknown():
    disk, clock = Disk(), ManualClock()
    run_id = await crashed_in("3", "once/1", disk, clock)
    async with Stage(disk, clock) as stage:
        await until(lambda: disk.runs[run_id].state is State.UNKNOWN)
        assert stage.called() == []
        assert "its answer was lost" in disk.facts(run_id)[-1].reason


async def test_a_run_that_crashes_the_process_is_a_dead_letter_after_three_attempts():
    disk, clock = Disk(), ManualClock()
    run_id = await crashed_in("4", "slow/1", disk, clock)
    for _ in range(2):
        stage = Stage(disk, clock)
        stage.holds("slow/1")
        await stage.node.start()
        await until(lambda stage=stage: stage.called() == ["slow/1"])
        stage.crash()
    attempts = [fact.attempt for fact in disk.facts(run_id) if isinstance(fact, Begun)]
    assert attempts == [2, 3]
    async with Stage(disk, clock) as stage:
        await until(lambda: disk.runs[run_id].state is State.DEAD)
        assert stage.called() == []
    assert disk.facts(run_id)[-1].code == "attempts"


async def test_all_runs_of_a_burst_are_in_flight_when_their_component_is_slow():
    async with Stage() as stage:
        go = stage.holds("slow/1")
        for _ in range(200):
            await stage.send("4")
        await until(lambda: len(stage.called()) == 200)
        go.set()


async def test_an_attempt_is_counted_before_its_first_call():
    disk, clock = Disk(), ManualClock()
    run_id = await crashed_in("4", "slow/1", disk, clock)
    stage = Stage(disk, clock)
    stage.holds("slow/1")
    await stage.node.start()
    await until(lambda: stage.called() == ["slow/1"])
    assert "Begun" in stage.facts(run_id)
    stage.crash()


async def test_a_drain_counts_no_attempt():
    disk, clock = Disk(), ManualClock()
    for _ in range(5):
        stage = Stage(disk, clock, bounds=Bounds(drain_s=0.01))
        stage.holds("slow/1")
        async with stage:
            if not disk.runs:
                await stage.send("4")
            await until(lambda stage=stage: stage.called() == ["slow/1"])
    (run_id,) = disk.runs
    assert not disk.runs[run_id].state.final
    assert not any(isinstance(fact, Begun) for fact in disk.facts(run_id))


async def test_after_a_crash_an_old_run_is_parked_until_it_is_released():
    disk, clock = Disk(), ManualClock()
    run_id = await crashed_in("2", "b/2", disk, clock)
    clock.ms += HOUR_MS + 1_000
    async with Stage(disk, clock) as stage:
        await until(lambda: disk.runs[run_id].state is State.PARKED)
        fresh = await stage.send("2")
        await until(lambda: disk.runs[fresh.run].state is State.SUCCEEDED)
        assert stage.called() == ["b/2"]
    async with Stage(disk, clock) as stage:
        await settle()
        assert disk.runs[run_id].state is State.PARKED
        assert stage.node.release_parked() == 1
        await until(lambda: disk.runs[run_id].state is State.SUCCEEDED)


async def test_after_a_crash_an_unanswered_offer_is_repeated_under_the_same_epoch():
    disk, clock = Disk(), ManualClock()
    stage = Stage(disk, clock)
    stage.balancer.answer = "3"
    asked = asyncio.Event()

    async def never(*_):
        asked.set()
        await asyncio.Event().wait()

    stage.peers.take = never
    await stage.node.start()
    taken = await stage.send("2")
    await asked.wait()
    stage.crash()
    stage = Stage(disk, clock)
    stage.peers.take = peer("receipt")
    async with stage:
        await until(lambda: disk.runs[taken.run].state is State.HANDED_OFF)
        assert stage.peers.offers == [("3", taken.run, 1)]
        assert stage.balancer.asked == 0


async def test_a_run_keeps_its_flow_when_the_configuration_changes():
    async with Stage() as stage:
        go = stage.holds("a/1")
        taken = await stage.send("1")
        await until(lambda: stage.called() == ["a/1"])
        flows = dict(stage.world.config.flows)
        flows["1"] = msgspec.structs.replace(flows["2"], id="1")
        await stage.node.reconfigure(msgspec.structs.replace(stage.world.config, flows=flows))
        go.set()
        await stage.ended(taken.run)
        assert stage.called() == ["a/1", "b/1", "a/1"]
        await stage.run("1")
        assert stage.called()[3:] == ["b/2"]


# --- drain and internal errors -------------------------------------------------------------------


async def test_drain_finishes_runs_in_flight_and_keeps_waiting_runs():
    disk = Disk()
    bounds = Bounds(max_inflight_runs=3)
    stage = Stage(disk, bounds=bounds)
    await stage.node.start()
    go = stage.holds("slow/1")
    taken = [await stage.send("4") for _ in range(5)]
    await until(lambda: len(stage.called()) == 2)
    draining = asyncio.create_task(stage.node.drain())
    await settle()
    with pytest.raises(Draining):
        await stage.send("2")
    go.set()
    await draining
    await stage.node.drain()
    states = [disk.runs[each.run].state for each in taken]
    assert sorted(states) == sorted([State.SUCCEEDED] * 2 + [State.ACCEPTED] * 3)
    assert disk.clean


async def test_an_internal_error_makes_its_run_a_dead_letter_and_others_continue():
    async with Stage() as stage:
        stage.raises("b/1", RuntimeError("a bug"))
        taken = await stage.send("1")
        await until(lambda: stage.state(taken.run) is State.DEAD)
        assert "a bug" in stage.disk.facts(taken.run)[-1].reason
        assert (await stage.run("2")).state is State.SUCCEEDED


async def test_every_accepted_trigger_is_placed_and_settled():
    async with Stage() as stage:
        stage.balancer.answer = "2"
        stage.peers.take = peer("receipt", UNSENT)
        for flow in "1234":
            stage.answers("slow/1", "no", 500)
            await stage.run(flow)
        assert stage.node.unfinished == 0
        assert all(kept.state.final for kept in stage.disk.runs.values())
        assert len(stage.ended_runs.settled) == 4
        for run_id in stage.disk.runs:
            assert any(isinstance(fact, Placed) for fact in stage.disk.facts(run_id))
