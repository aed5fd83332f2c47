"""Replay, decide-step and send: ended runs and dead letters are repeated as new runs, once."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from engine_stage import ManualClock, Stage, config, peer, settle, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.domain.actions import (
    ActionRequest,
    AlreadyHandled,
    AtOtherNode,
    CannotActNow,
    DecideStep,
    Definition,
    Discard,
    NoLongerKept,
    NoSuchTarget,
    NotPossible,
    Release,
    Replay,
    Send,
    WrongState,
)
from fractal_rm.domain.expression import Payload, Result
from fractal_rm.domain.facts import Accepted, Dead, Finished
from fractal_rm.domain.flow import Order, Publish, QueueSettings, Reply
from fractal_rm.domain.masking.omitted import Omission, Omitted
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, TriggerSource
from fractal_rm.engine.ports import TimedFact
from steps import each, flow, get, items, post, undo

HOUR_MS = 3_600_000
FAILING = flow(
    get(1, "a 1"), Publish("alerts", items(Result(1))), post(2, "b 1", Result(1)),
    get(3, "slow 1"), Reply(items(Result(2))),
)  # fmt: skip


def act(stage: Stage, action, actor="anna", request_id="r1"):
    return stage.node.act(ActionRequest(action, actor, request_id))


def stage_of(*flows, disk=None, clock=None, **changes) -> Stage:
    return Stage(disk, clock, flows={each.id: each for each in flows}, **changes)


async def fail(stage: Stage, flow_id="9", **keys) -> str:
    """Make a run of a flow whose call of "slow 1" fails. Returns its id."""
    stage.set_answer("slow/1", "no", 500)
    run_id = (await stage.send(flow_id, **keys)).run
    assert (await stage.wait_for_outcome(run_id)).state is State.FAILED
    stage.set_answer("slow/1", "yes")
    stage.components.requests.clear()
    return run_id


def accepted(stage: Stage, run_id: str) -> Accepted:
    return stage.disk.facts(run_id)[0]


# --- replay --------------------------------------------------------------------------------------


async def test_a_replay_is_a_new_run_with_the_same_payload_that_names_the_original():
    async with stage_of(FAILING) as stage:
        original = await fail(stage, payload={"n": 1})
        facts = stage.disk.facts(original)
        done = await act(stage, Replay(original))
        assert (done.run, done.state, done.repeated) == (original, State.FAILED, False)
        outcome = await stage.wait_for_outcome(done.new_run)
        assert outcome.state is State.SUCCEEDED
        assert stage.called_endpoints() == ["a/1", "b/1", "slow/1"]
        first = accepted(stage, done.new_run)
        assert (first.source, first.replays, first.actor) == ("replay", original, "anna")
        assert bytes(first.payload) == b'{"n": 1}'
        assert stage.disk.facts(original) == facts


async def test_a_replay_from_a_step_takes_the_results_of_the_earlier_steps():
    async with stage_of(FAILING) as stage:
        original = await fail(stage)
        done = await act(stage, Replay(original, from_step=3))
        outcome = await stage.wait_for_outcome(done.new_run)
        assert stage.called_endpoints() == ["slow/1"]
        results = [json.loads(bytes(each)) for each in outcome.results]
        assert results == ["from a/1", "from b/1", "yes"]
        assert json.loads(bytes(outcome.reply)) == "from b/1"
        assert len(stage.publisher.published) == 1
        assert accepted(stage, done.new_run).from_step == 3
        finished = [f for f in stage.disk.facts(original) if isinstance(f, Finished)]
        assert [f for f in stage.disk.facts(done.new_run) if f in finished] == finished


async def test_a_replay_from_the_first_step_repeats_the_whole_run():
    async with stage_of(FAILING) as stage:
        done = await act(stage, Replay(await fail(stage), from_step=1))
        await stage.wait_for_outcome(done.new_run)
        assert stage.called_endpoints() == ["a/1", "b/1", "slow/1"]


@pytest.mark.parametrize(
    ("step", "why"),
    [(9, "has no step 9: it has steps 1 to 3"), (0, "has no step 0")],
)
async def test_a_step_that_the_flow_does_not_have_is_refused(step, why):
    async with stage_of(FAILING) as stage:
        with pytest.raises(NotPossible, match=why):
            await act(stage, Replay(await fail(stage), from_step=step))
        assert len(stage.disk.runs) == 1


async def test_a_step_whose_predecessor_has_no_result_is_refused():
    async with stage_of(flow(get(1, "slow 1"), get(2, "a 1"), get(3, "b 1"))) as stage:
        with pytest.raises(NotPossible, match="has not finished step 1, which must come first"):
            await act(stage, Replay(await fail(stage), from_step=3))


async def test_a_step_whose_predecessor_was_undone_is_refused():
    async with stage_of(flow(get(1, "a 1", undo=undo("2")), get(2, "slow 1"))) as stage:
        with pytest.raises(NotPossible, match=r"step 1 of run .* was undone"):
            await act(stage, Replay(await fail(stage), from_step=2))


@pytest.mark.parametrize("definition", list(Definition))
async def test_a_replay_uses_the_definition_that_was_asked_for(definition):
    async with stage_of(FAILING) as stage:
        original = await fail(stage)
        await stage.node.reconfigure(config(flows={"9": flow(get(1, "b 2"))}))
        stage.set_answer("b/2", "new")
        done = await act(stage, Replay(original, definition))
        await stage.wait_for_outcome(done.new_run)
        expected = ["a/1", "b/1", "slow/1"] if definition is Definition.RECORDED else ["b/2"]
        assert stage.called_endpoints() == expected


async def test_results_are_not_used_for_steps_that_have_changed():
    async with stage_of(FAILING) as stage:
        original = await fail(stage)
        changed = flow(get(1, "a 2"), get(2, "b 1"))
        await stage.node.reconfigure(config(flows={"9": changed}))
        with pytest.raises(NotPossible, match=r"step 1 is not the step that run .* has done"):
            await act(stage, Replay(original, Definition.CURRENT, from_step=2))


async def test_results_are_used_if_only_later_steps_have_changed():
    async with stage_of(FAILING) as stage:
        original = await fail(stage)
        changed = flow(*FAILING.steps[:3], get(3, "a 2"))
        await stage.node.reconfigure(config(flows={"9": changed}))
        done = await act(stage, Replay(original, Definition.CURRENT, from_step=3))
        await stage.wait_for_outcome(done.new_run)
        assert stage.called_endpoints() == ["a/2"]


async def test_a_flow_that_is_gone_can_be_repeated_with_its_recorded_definition_only():
    async with stage_of(FAILING) as stage:
        original = await fail(stage)
        await stage.node.reconfigure(config(flows={}))
        with pytest.raises(NotPossible, match=r"flows.conf no longer has flow 9"):
            await act(stage, Replay(original, Definition.CURRENT))
        stage.balancer.answer = "2"
        done = await act(stage, Replay(original))
        assert (await stage.wait_for_outcome(done.new_run)).state is State.SUCCEEDED
        assert stage.peers.offers == []  # another node would not know this definition


async def test_the_balancer_places_a_replay_with_the_current_definition():
    async with stage_of(FAILING) as stage:
        original = await fail(stage)
        stage.balancer.answer, stage.peers.answer_offer = "2", peer("plain")
        done = await act(stage, Replay(original))
        assert (await stage.wait_for_outcome(done.new_run)).state is State.HANDED_OFF
        with pytest.raises(AtOtherNode, match="node 2 has run"):
            await act(stage, Replay(done.new_run))


async def test_a_replay_from_a_step_waits_for_a_permit_of_its_flow():
    limited = msgspec.structs.replace(FAILING, queueing=QueueSettings(limit=1))
    async with stage_of(limited) as stage:
        original = await fail(stage)
        release = stage.block_calls("slow/1")
        holder = (await stage.send("9")).run
        await until(lambda: "slow/1" in stage.called_endpoints())
        done = await act(stage, Replay(original, from_step=3))
        await settle()
        assert stage.called_endpoints().count("slow/1") == 1
        release.set()
        for run_id in (holder, done.new_run):
            assert (await stage.wait_for_outcome(run_id)).state is State.SUCCEEDED
        await until(lambda: not stage.load.in_flight)
        assert stage.queue.permits.count_held("9") == 0
        assert (stage.load.waiting, stage.load.payload_bytes, stage.load.result_bytes) == (0, 0, 0)


async def test_a_dataflow_is_repeated_from_a_step():
    parallel = flow(
        get(1, "a 1"), get(2, "slow 1"), post(3, "b 1", Result(1), Result(2)),
        order=Order.DATAFLOW,
    )  # fmt: skip
    async with stage_of(parallel) as stage:
        done = await act(stage, Replay(await fail(stage), from_step=2))
        assert (await stage.wait_for_outcome(done.new_run)).state is State.SUCCEEDED
        assert stage.called_endpoints() == ["slow/1", "b/1"]


async def test_an_open_run_is_not_repeated():
    async with stage_of(FAILING) as stage:
        stage.node.pause(True)
        run_id = (await stage.send("9")).run
        with pytest.raises(WrongState, match="has not ended: it is accepted"):
            await act(stage, Replay(run_id))


async def test_a_run_that_does_not_exist_is_not_repeated():
    async with stage_of(FAILING) as stage:
        with pytest.raises(NoSuchTarget):
            await act(stage, Replay("no such run"))


async def test_a_run_is_not_repeated_while_the_node_drains():
    async with stage_of(FAILING) as stage:
        original = await fail(stage)
        stage.node.set_draining(True)
        with pytest.raises(CannotActNow, match="drains"):
            await act(stage, Replay(original))


async def test_a_payload_that_is_not_kept_is_not_repeated():
    async with stage_of(FAILING) as stage:
        original = await fail(stage)
        first, *rest = stage.disk.runs[original].facts
        short = msgspec.structs.replace(first.fact, omitted=Omitted(Omission.ALL, 9))
        stage.disk.runs[original].facts[:] = [TimedFact(first.at_ms, short), *rest]
        with pytest.raises(NoLongerKept, match=r"the payload of run .* is not kept"):
            await act(stage, Replay(original))


async def test_a_result_that_is_not_kept_is_not_used():
    async with stage_of(FAILING) as stage:
        original = await fail(stage)
        stored = stage.disk.runs[original].facts
        stored[:] = [
            TimedFact(
                each.at_ms, msgspec.structs.replace(each.fact, omitted=Omitted(Omission.REST, 9))
            )
            if isinstance(each.fact, Finished)
            else each
            for each in stored
        ]
        with pytest.raises(NoLongerKept, match=r"the result of step 1 of run .* is not kept"):
            await act(stage, Replay(original, from_step=3))
        assert (await act(stage, Replay(original))).new_run


# --- once ----------------------------------------------------------------------------------------


async def test_the_same_request_again_gives_the_same_run():
    async with stage_of(FAILING) as stage:
        original = await fail(stage)
        first, second = await asyncio.gather(
            act(stage, Replay(original)), act(stage, Replay(original))
        )
        assert second.new_run == first.new_run
        assert (first.repeated, second.repeated) == (False, True)
        assert len(stage.disk.runs) == 2


async def test_the_second_of_two_operators_is_told_who_was_first():
    async with stage_of(FAILING) as stage:
        original = await fail(stage)
        first = await act(stage, Replay(original))
        with pytest.raises(AlreadyHandled, match=f"repeated before, as run {first.new_run}"):
            await act(stage, Replay(original), "ben", "r2")
        again = await act(stage, Replay(original, again=True), "ben", "r3")
        assert again.new_run != first.new_run
        same = await act(stage, Replay(original, again=True), "ben", "r3")
        assert (same.new_run, same.repeated) == (again.new_run, True)


async def test_after_its_key_has_expired_a_repeated_run_is_still_known():
    async with stage_of(FAILING) as stage:
        original = await fail(stage)
        first = await act(stage, Replay(original))
        await stage.wait_for_outcome(first.new_run)
        stage.clock.ms += 100 * 24 * HOUR_MS
        with pytest.raises(AlreadyHandled, match=f"anna repeated it as run {first.new_run} at"):
            await act(stage, Replay(original), "ben", "r2")


# --- decisions about a step in doubt -------------------------------------------------------------


async def make_unknown(main_flow, endpoint="once/1", **keys) -> tuple[JournalContent, str, Stage]:
    """Crash a node during a call that must not be repeated. Returns a started node after it."""
    disk, clock = JournalContent(), ManualClock()
    stage = stage_of(main_flow, disk=disk, clock=clock)
    await stage.node.start()
    stage.block_calls(endpoint)
    run_id = (await stage.send(main_flow.id, **keys)).run
    await until(lambda: endpoint in stage.called_endpoints())
    await settle()
    stage.crash()
    stage = stage_of(main_flow, disk=disk, clock=clock)
    await stage.node.start()
    assert (await stage.wait_for_outcome(run_id)).state is State.UNKNOWN
    stage.components.requests.clear()
    return run_id, stage


DOUBTFUL = flow(get(1, "a 1"), get(2, "once 1"), post(3, "b 1", Result(2)))


async def test_a_step_that_was_done_is_not_repeated_and_its_given_result_is_used():
    run_id, stage = await make_unknown(DOUBTFUL)
    done = await act(stage, DecideStep(run_id, done=True, result=msgspec.Raw(b'{"ok": 1}')))
    outcome = await stage.wait_for_outcome(done.new_run)
    assert outcome.state is State.SUCCEEDED
    assert stage.called_endpoints() == ["b/1"]
    assert [json.loads(bytes(each)) for each in outcome.results] == [
        "from a/1",
        '{"ok": 1}',
        "from b/1",
    ]
    assert accepted(stage, done.new_run).from_step == 3
    await stage.node.drain()


async def test_a_step_that_was_not_done_is_made_by_the_new_run():
    run_id, stage = await make_unknown(DOUBTFUL)
    done = await act(stage, DecideStep(run_id, done=False))
    assert (await stage.wait_for_outcome(done.new_run)).state is State.SUCCEEDED
    assert stage.called_endpoints() == ["once/1", "b/1"]
    with pytest.raises(AlreadyHandled):
        await act(stage, DecideStep(run_id, done=True), "ben", "r2")
    await stage.node.drain()


@pytest.mark.parametrize(
    ("result", "expected"), [(b"null", ""), (b'"text"', "text"), (b"[1]", "[1]")]
)
async def test_the_result_of_a_call_is_the_text_of_its_response(result, expected):
    run_id, stage = await make_unknown(DOUBTFUL)
    done = await act(stage, DecideStep(run_id, done=True, result=msgspec.Raw(result)))
    outcome = await stage.wait_for_outcome(done.new_run)
    assert json.loads(bytes(outcome.results[1])) == expected
    await stage.node.drain()


async def test_a_decided_step_is_undone_if_a_later_step_fails():
    undone = flow(get(1, "once 1", undo=undo("2")), get(2, "slow 1"))
    run_id, stage = await make_unknown(undone)
    stage.set_answer("slow/1", "no", 500)
    stage.set_answer("once/2", "undone")
    done = await act(stage, DecideStep(run_id, done=True))
    assert (await stage.wait_for_outcome(done.new_run)).state is State.FAILED
    assert stage.called_endpoints() == ["slow/1", "once/2"]
    await stage.node.drain()


async def test_an_element_of_a_foreach_is_decided():
    listed = flow(post(1, "once 1", Payload(), foreach=each(Payload())), get(2, "a 1"))
    run_id, stage = await make_unknown(listed, payload=[1, 2])
    done = await act(stage, DecideStep(run_id, done=True, result=msgspec.Raw(b'"one"')))
    outcome = await stage.wait_for_outcome(done.new_run)
    assert outcome.state is State.SUCCEEDED
    assert stage.called_endpoints() == ["once/1", "a/1"]
    assert json.loads(json.loads(bytes(outcome.results[0]))) == ["one", "from once/1"]
    await stage.node.drain()


async def test_only_a_run_that_ended_as_unknown_is_decided():
    async with stage_of(FAILING) as stage:
        with pytest.raises(WrongState, match="only a run that ended as unknown"):
            await act(stage, DecideStep(await fail(stage), done=True))


# --- dead letters --------------------------------------------------------------------------------


async def set_aside(stage: Stage, body: bytes, **keys) -> str:
    before = set(stage.disk.runs)
    await stage.node.set_aside(Arrival(TriggerSource.MQTT, body, **keys), Malformed("not JSON"))
    (letter,) = set(stage.disk.runs) - before
    return letter


async def test_an_edited_dead_letter_is_sent_as_a_new_trigger():
    async with Stage() as stage:
        letter = await set_aside(stage, b'{"id_flow": "2"')
        with pytest.raises(NotPossible, match="the message is not a trigger"):
            await act(stage, Send(letter))
        done = await act(stage, Send(letter, b'{"id_flow": "2", "payload": 7}'))
        assert (await stage.wait_for_outcome(done.new_run)).state is State.SUCCEEDED
        first = accepted(stage, done.new_run)
        assert (first.replays, bytes(first.payload), first.source) == (letter, b"7", "replay")
        assert isinstance(stage.disk.facts(letter)[0], Dead)
        assert stage.state(letter) is State.DEAD


async def test_a_dead_letter_of_a_flow_that_exists_by_now_is_sent_unchanged():
    async with Stage() as stage:
        letter = await set_aside(stage, b'{"id_flow": "77", "payload": 7}')
        with pytest.raises(NotPossible, match=r"flows.conf has no flow '77'"):
            await act(stage, Send(letter))
        flows = {"77": msgspec.structs.replace(config().flows["2"], id="77")}
        await stage.node.reconfigure(config(flows=flows))
        done = await act(stage, Send(letter))
        assert (await stage.wait_for_outcome(done.new_run)).state is State.SUCCEEDED


async def test_a_dead_letter_whose_topic_names_the_flow_is_sent_to_this_flow():
    async with Stage() as stage:
        letter = await set_aside(stage, b"only the payload", flow_id="2")
        done = await act(stage, Send(letter))
        assert bytes(accepted(stage, done.new_run).payload) == b'"only the payload"'


async def test_a_message_whose_id_has_become_a_run_is_not_sent_again():
    async with Stage() as stage:
        run_id = (await stage.send("2", id="x")).run
        letter = await set_aside(stage, b"{")
        body = b'{"id_flow": "2", "payload": 7, "id": "x"}'
        with pytest.raises(AlreadyHandled, match=f"has become run {run_id}"):
            await act(stage, Send(letter, body))
        assert (await act(stage, Send(letter, body, again=True))).new_run


async def test_a_message_of_which_only_the_beginning_is_kept_must_be_given():
    async with Stage() as stage:
        letter = await set_aside(stage, b"x" * 70_000)
        with pytest.raises(NoLongerKept, match="only its first 65536 bytes are kept"):
            await act(stage, Send(letter))


async def test_a_run_is_not_sent_and_a_dead_letter_is_not_replayed():
    async with stage_of(FAILING) as stage:
        with pytest.raises(WrongState, match="is not a dead letter"):
            await act(stage, Send(await fail(stage)))
        letter = await set_aside(stage, b"{")
        with pytest.raises(WrongState, match="is a dead letter"):
            await act(stage, Replay(letter))


# --- discard and release -------------------------------------------------------------------------


async def test_a_discarded_run_stays_as_it_is_and_is_not_repeated_by_mistake():
    async with stage_of(FAILING) as stage:
        original = await fail(stage)
        done = await act(stage, Discard(original, "the cable was loose"))
        assert done.state is State.FAILED
        last = stage.disk.facts(original)[-1]
        assert (last.actor, last.note, last.request) == ("anna", "the cable was loose", "r1")
        assert (await act(stage, Discard(original))).repeated
        with pytest.raises(AlreadyHandled, match="anna discarded it at 1970-01-01 00:16:40 UTC"):
            await act(stage, Discard(original), "ben", "r2")
        with pytest.raises(AlreadyHandled, match="anna discarded it"):
            await act(stage, Replay(original), "ben", "r3")
        assert (await act(stage, Replay(original, again=True), "ben", "r4")).new_run


async def test_a_dead_letter_is_discarded():
    async with Stage() as stage:
        letter = await set_aside(stage, b"{")
        assert (await act(stage, Discard(letter))).state is State.DEAD
        with pytest.raises(AlreadyHandled):
            await act(stage, Send(letter, b'{"id_flow": "2", "payload": 7}'), "ben", "r2")


async def test_an_open_run_is_not_discarded():
    async with Stage() as stage:
        stage.node.pause(True)
        with pytest.raises(WrongState, match="cancel it first"):
            await act(stage, Discard((await stage.send()).run))


async def test_a_long_note_is_refused():
    async with Stage() as stage:
        with pytest.raises(NotPossible, match="at most 1000 characters"):
            await act(stage, Discard("any", "x" * 1_001))


async def test_a_parked_run_is_released_by_its_operator():
    waiting = flow(get(1, "slow 1"))
    disk, clock = JournalContent(), ManualClock()
    stage = stage_of(waiting, disk=disk, clock=clock)
    await stage.node.start()
    stage.block_calls("slow/1")
    run_id = (await stage.send("9")).run
    await until(stage.called_endpoints)
    stage.crash()
    clock.ms += HOUR_MS + 1_000
    async with stage_of(waiting, disk=disk, clock=clock) as stage:
        await until(lambda: stage.state(run_id) is State.PARKED)
        stage.set_answer("slow/1", "yes")
        release = stage.block_calls("slow/1")
        done = await act(stage, Release(run_id))
        assert not done.repeated
        assert (await act(stage, Release(run_id))).repeated
        with pytest.raises(WrongState, match="is not parked"):
            await act(stage, Release(run_id), "ben", "r2")
        release.set()
        assert (await stage.wait_for_outcome(run_id)).state is State.SUCCEEDED
        (released,) = [f for f in stage.disk.facts(run_id) if type(f).__name__ == "Released"]
        assert (released.actor, released.request) == ("anna", "r1")
