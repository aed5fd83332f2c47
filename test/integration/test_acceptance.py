"""The acceptance of triggers, with in-memory adapters: duplicates, bounds, dead letters."""

from __future__ import annotations

import asyncio

import pytest

from engine_stage import Stage, settle, until
from fractal_rm.config.model import Bounds
from fractal_rm.domain.facts import Dead
from fractal_rm.domain.refusals import (
    Busy,
    InternalFault,
    JournalUnavailable,
    KeyReused,
    Malformed,
    UnknownFlow,
    WrongShape,
)
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, TriggerSource
from fractal_rm.engine import accept


async def test_unknown_flows_and_malformed_triggers_are_refused():
    async with Stage() as stage:
        with pytest.raises(UnknownFlow, match="'99'"):
            await stage.send("99")
        with pytest.raises(WrongShape):
            await stage.node.receive(Arrival(TriggerSource.MQTT, b'{"id_flow": "1"}'))
        with pytest.raises(Malformed):
            await stage.node.receive(Arrival(TriggerSource.MQTT, b"{"))
        assert stage.disk.runs == {}


async def test_triggers_that_arrive_together_get_separate_answers(monkeypatch):
    def arrival(flow):
        return Arrival(TriggerSource.MQTT, f'{{"id_flow": "{flow}", "payload": 1}}'.encode())

    async with Stage() as stage:
        decode = accept.decode_trigger

        def decode_or_raise(arrival, max_bytes):
            if b"666" in arrival.body:
                raise RuntimeError("an unforeseen error")
            return decode(arrival, max_bytes)

        monkeypatch.setattr(accept, "decode_trigger", decode_or_raise)
        arrivals = [arrival("2"), arrival("99"), arrival("666"), arrival("2")]
        first, unknown, fault, second = await stage.node.receive_all(arrivals)
        assert [type(unknown), type(fault)] == [UnknownFlow, InternalFault]
        await until(lambda: stage.node.unfinished == 0)
        assert stage.state(first.run) is stage.state(second.run) is State.SUCCEEDED
        assert len(stage.disk.runs) == 2


async def test_a_run_is_executed_even_if_the_receiving_task_was_cancelled():
    async with Stage() as stage:
        receiving = asyncio.create_task(stage.send("2"))
        await asyncio.sleep(0)
        receiving.cancel()
        await until(lambda: stage.disk.runs and stage.node.unfinished == 0)
        (run_id,) = stage.disk.runs
        await until(lambda: stage.state(run_id) is State.SUCCEEDED)


async def test_a_dead_letter_contains_the_message_and_the_reason():
    async with Stage() as stage:
        arrival = Arrival(TriggerSource.MQTT, b"\xff" * 100_000)
        await stage.node.set_aside(arrival, Malformed("not UTF-8 at byte 0"))
        ((fact,),) = [stage.disk.facts(run_id) for run_id in stage.disk.runs]
        assert isinstance(fact, Dead)
        assert (fact.code, fact.source) == ("malformed", "mqtt")
        assert fact.body == b"\xff" * 65_536


async def test_a_trigger_with_a_known_id_returns_the_same_run():
    async with Stage() as stage:
        release = stage.block_calls("slow/1")
        first = await stage.send("4", id="k")
        duplicate = await stage.send("4", id="k")
        assert (duplicate.run, duplicate.duplicate) == (first.run, True)
        with pytest.raises(KeyReused):
            await stage.send("4", payload="other", id="k")
        release.set()
        await stage.wait_for_outcome(first.run)
        late_duplicate = await stage.send("4", id="k")
        assert (late_duplicate.run, late_duplicate.state) == (first.run, State.SUCCEEDED)
        assert len(stage.components.requests) == 1


async def test_duplicates_that_arrive_at_the_same_time_make_one_run():
    async with Stage() as stage:
        accepted = await asyncio.gather(*(stage.send("2", id="k") for _ in range(50)))
        assert len({each.run for each in accepted}) == 1
        await until(lambda: stage.node.unfinished == 0)
        assert stage.called_endpoints() == ["b/2"]


async def test_triggers_above_a_bound_are_refused_and_accepted_runs_succeed():
    async with Stage(bounds=Bounds(max_inflight_runs=2, max_waiting_runs=3)) as stage:
        release = stage.block_calls("slow/1")
        accepted = []
        with pytest.raises(Busy) as refused:
            for _ in range(10):
                accepted.append(await stage.send("4"))
        assert refused.value.retry_after_s
        assert 3 <= len(accepted) <= 5
        release.set()
        await until(lambda: stage.node.unfinished == 0)
        assert [stage.state(each.run) for each in accepted] == [State.SUCCEEDED] * len(accepted)
        assert await stage.send("2")


async def test_the_bytes_of_unfinished_runs_are_bounded():
    async with Stage(bounds=Bounds(max_inflight_bytes=10_000)) as stage:
        release = stage.block_calls("slow/1")
        with pytest.raises(Busy, match="bytes"):
            for _ in range(20):
                await stage.send("4", payload="x" * 1_000)
        release.set()
        await until(lambda: stage.node.unfinished == 0)
        assert stage.load.payload_bytes == 0


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


async def test_senders_that_wait_while_the_disk_is_full_do_not_wake_each_other():
    async with Stage() as stage:
        stage.journal.full = True
        attempts = []

        async def send_until_accepted():
            while True:
                attempts.append(1)
                try:
                    return await stage.send("2")
                except Busy:
                    await stage.node.wait_for_room()

        waiting = [asyncio.create_task(send_until_accepted()) for _ in range(3)]
        await settle()
        assert len(attempts) == 3
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert not stage.queue.capacity.waiting_senders
        stage.journal.full = False


async def test_a_request_for_an_outcome_that_times_out_leaves_no_waiter():
    async with Stage() as stage:
        release = stage.block_calls("slow/1")
        run = (await stage.send("4")).run
        for _ in range(10):
            assert await stage.node.outcome(run, 0) is None
        assert not stage.node.lifecycle.outcomes.waiting
        release.set()


async def test_a_paused_node_accepts_triggers_and_begins_no_run():
    async with Stage() as stage:
        stage.node.pause(True)
        accepted = await stage.send("2")
        await settle()
        assert stage.called_endpoints() == []
        stage.node.pause(False)
        await until(lambda: stage.state(accepted.run) is State.SUCCEEDED)
