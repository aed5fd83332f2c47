"""Workers are started when there are runs. A few idle workers wait for the next runs."""

from __future__ import annotations

import asyncio

from engine_stage import Stage, until
from fractal_rm.domain.state import State
from fractal_rm.engine.queue.ready import MAX_IDLE_WORKERS


def workers(name: str = "Lifecycle._work") -> list[asyncio.Task]:
    """The tasks whose description contains ``name``."""
    return [task for task in asyncio.all_tasks() if name in repr(task)]


async def test_one_worker_executes_runs_that_follow_one_another():
    async with Stage() as stage:
        for _ in range(5):
            assert (await stage.run("2")).state is State.SUCCEEDED
        assert len(workers()) <= 2  # the previous worker may not be idle yet


async def test_surplus_idle_workers_end_after_a_burst_of_runs():
    async with Stage() as stage:
        release = stage.block_calls("slow/1")
        accepted_triggers = [await stage.send("4") for _ in range(3 * MAX_IDLE_WORKERS)]
        await until(lambda: stage.load.in_flight == 3 * MAX_IDLE_WORKERS)
        assert len(workers()) == 3 * MAX_IDLE_WORKERS
        release.set()
        for each in accepted_triggers:
            assert (await stage.wait_for_outcome(each.run)).state is State.SUCCEEDED
        await until(lambda: len(workers()) == MAX_IDLE_WORKERS)


async def test_a_node_that_is_killed_leaves_no_task():
    stage = Stage()
    await stage.node.start()
    stage.block_calls("slow/1")
    await stage.send("4")
    await until(lambda: stage.load.in_flight == 1)
    stage.crash()
    await until(lambda: not workers("Lifecycle"))
    assert not stage.state(next(iter(stage.disk.runs))).final


async def test_an_error_in_a_worker_is_logged_and_other_workers_execute_the_next_runs(monkeypatch):
    async with Stage() as stage:
        settle, broken = stage.node.lifecycle.settle, []

        def breaks_once(run, ending):
            if not broken:
                broken.append(run.id)
                raise OSError("nobody expected this")
            return settle(run, ending)

        monkeypatch.setattr(stage.node.lifecycle, "settle", breaks_once)
        await stage.send("2")
        await until(lambda: broken)
        assert (await stage.run("2")).state is State.SUCCEEDED
        assert "run_internal_error" in stage.telemetry.events
