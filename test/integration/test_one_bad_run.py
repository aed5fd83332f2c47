"""A fault in one run ends only that run. The node and all other runs continue."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
from contextlib import closing
from urllib.request import urlopen

import msgspec
import pytest
from click.testing import CliRunner

from engine_stage import URL, Stage, config, until
from fractal_rm.adapters.balancer import HttpBalancer
from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.log import LogJournal
from fractal_rm.adapters.memory import MemoryCaller
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.adapters.peers import HttpPeers
from fractal_rm.adapters.sqlite.format.page_chain import chain_start, page_checksum
from fractal_rm.cli.main import cli
from fractal_rm.config.load import load
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.facts import Accepted, Finished, Placed, Released
from fractal_rm.domain.flow import QueueSettings, flow_version
from fractal_rm.domain.handoff.messages import NoReceipt, Offer
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, TriggerSource
from fractal_rm.engine.ports import NewRun
from fractal_rm.engine.queue import order
from nodes import HOST, NodeProcess, wait_until

FLOWS = """\
1
LATEST id
TO component1 1
POST payload
REPLY payload

2
TO component1 1
POST JSON {"id": payload.id}

3
LATEST to_number(id)
TO component1 1
POST payload
"""
BAD_PAYLOADS = [b'{"id": %b}' % number for number in (b"1e400", b"9" * 5000)]


@pytest.fixture
def node(tmp_path, components):
    new_node = NodeProcess(tmp_path / "n", components=components.port, mode="api")
    (new_node.config / "flows.conf").write_text(FLOWS)
    yield new_node
    if new_node.process is not None and new_node.process.poll() is None:
        new_node.process.kill()
        new_node.process.wait()


def journal_of(node: NodeProcess, retention_ms: int) -> LogJournal:
    return open_journal(
        node.state / "api.journal", limits=lambda: (1, 1), retention_ms=lambda: retention_ms,
        on_lost=print,
    )  # fmt: skip


async def write_journal(node: NodeProcess, entries: dict[str, tuple], *, clean: bool) -> None:
    """Write the journal of an earlier process.

    ``entries``: the flow, the payload and later facts of each run, by run id.
    """
    flows = load(node.config, {}).config.flows
    now_ms = SystemClock.now_ms()
    journal = journal_of(node, now_ms)
    await journal.open()
    for run_id, (flow_id, payload, *later_facts) in entries.items():
        flow = flows[flow_id]
        fact = Accepted(flow_id, flow_version(flow), msgspec.Raw(payload), "rest", placed=True)
        run = fold(Run(run_id, flow, now_ms), [fact])
        await journal.accept(NewRun(run_id, flow, now_ms, (fact,), run.state, ""))
        for each in later_facts:
            journal.append(run, each, now_ms)
            await journal.durable
    await journal.close(clean=clean)


def run_ids(*numbers: int) -> list[str]:
    return [f"01J0000000000000000000000{n}" for n in numbers]


def fractal_rm(node: NodeProcess, *args: str):
    return CliRunner().invoke(cli, [*args, "--config", str(node.config)])


@pytest.mark.parametrize("clean", [True, False])
def test_a_node_starts_although_an_older_release_accepted_an_invalid_payload(node, clean):
    names = run_ids(*range(1, 7))
    runs = {
        name: (str(number % 3 + 1), BAD_PAYLOADS[number // 3]) for number, name in enumerate(names)
    } | {"01J000000000000000000000A0": ("2", b'{"id": 7}')}
    asyncio.run(write_journal(node, runs, clean=clean))
    node.start()
    wait_until(lambda: all(run.state.final for run in node.runs()))
    states = {run.id: run.state for run in node.runs()}
    assert states["01J000000000000000000000A0"] is State.SUCCEEDED
    assert "Traceback" not in node.log
    reasons = [run.reason for run in node.runs() if run.flow == "2" and run.state is State.FAILED]
    assert len(reasons) == len(BAD_PAYLOADS)
    assert all("payload.id cannot be read" in reason for reason in reasons)
    for name in names:
        with urlopen(f"http://{HOST}:{node.rest}/v1/runs/{name}") as response:
            assert response.status == 200
        for command in ("show", "record"):
            result = fractal_rm(node, "runs", command, name)
            is_handled = result.exit_code == 0 or isinstance(result.exception, FractalError)
            assert is_handled, result.exception
    assert fractal_rm(node, "audit").exit_code == 0


def test_a_run_with_impossible_facts_is_set_aside_and_other_runs_continue(node):
    impossible, unreadable, valid = run_ids(1, 2, 3)
    deep = msgspec.Raw(b"[" * 20_000 + b"]" * 20_000)
    runs = {
        impossible: ("2", b'{"id": 1}', Released()),
        unreadable: ("2", b'{"id": 2}', Finished(1, 200, 0.1, deep)),
        valid: ("2", b'{"id": 3}', Placed(None, "here")),
    }
    asyncio.run(write_journal(node, runs, clean=False))
    node.start()
    wait_until(lambda: all(run.state.final for run in node.runs()))
    ended_runs = {run.id: run for run in node.runs()}
    assert [ended_runs[name].state for name in (impossible, unreadable, valid)] == [
        State.DEAD, State.DEAD, State.SUCCEEDED,
    ]  # fmt: skip
    assert "Released is not possible" in ended_runs[impossible].reason
    assert "cannot be read" in ended_runs[unreadable].reason
    assert node.log.count(" run_set_aside ") == 2
    node.kill()
    assert asyncio.run(count_open_runs(node)) == 0


class AcceptedOfLaterRelease(Accepted, frozen=True, tag="accepted-otherwise"):
    """A first fact of a kind that only a later release knows."""


async def write_and_kill(node: NodeProcess, runs: dict[str, type[Accepted]]) -> None:
    """Write runs of flow 2 with first facts of these types. Do not close the journal."""
    flow, now_ms = load(node.config, {}).config.flows["2"], SystemClock.now_ms()
    journal = journal_of(node, now_ms)
    await journal.open()
    for run_id, fact_type in runs.items():
        fact = fact_type("2", flow_version(flow), msgspec.Raw(b'{"id": 1}'), "rest", placed=True)
        await journal.accept(NewRun(run_id, flow, now_ms, (fact,), State.ACCEPTED, ""))
    journal.crash()


def test_a_run_with_an_unreadable_first_fact_is_set_aside_and_other_runs_continue(node):
    unreadable, valid = run_ids(1, 2)
    asyncio.run(write_and_kill(node, {unreadable: AcceptedOfLaterRelease, valid: Accepted}))
    node.start()
    wait_until(lambda: all(run.state.final for run in node.runs()))
    ended_runs = {run.id: run for run in node.runs()}
    assert (ended_runs[unreadable].state, ended_runs[valid].state) == (State.DEAD, State.SUCCEEDED)
    assert ended_runs[unreadable].flow == "2"
    assert "cannot be read" in ended_runs[unreadable].reason


async def count_open_runs(node: NodeProcess) -> int:
    journal = journal_of(node, 1)
    recovered = await journal.open()
    await journal.close(clean=True)
    return len(recovered.runs)


class UnexpectedError(Exception):
    """An error that the program does not expect."""


@pytest.fixture
def unqueueable_payloads(monkeypatch):
    """A set of payloads. A run whose payload is in the set cannot be queued."""
    payloads: set[bytes] = set()
    latest_key = order.latest_key

    def key_or_raise(flow_id, latest, payload, max_values):
        if bytes(payload) in payloads:
            raise UnexpectedError
        return latest_key(flow_id, latest, payload, max_values)

    monkeypatch.setattr(order, "latest_key", key_or_raise)
    return payloads


def flows_with_latest() -> dict:
    return {"2": msgspec.structs.replace(config().flows["2"], queueing=QueueSettings(latest="@"))}


def arrivals(*payloads: str) -> list[Arrival]:
    bodies = [json.dumps({"id_flow": "2", "payload": each}).encode() for each in payloads]
    return [Arrival(TriggerSource.MQTT, body) for body in bodies]


def states(stage: Stage, *accepted) -> list[State]:
    return [stage.state(each.run) for each in accepted]


def load_of(stage: Stage) -> tuple[int, ...]:
    """The numbers of waiting runs, of runs in flight, and of bytes of their payloads."""
    load = stage.load
    return load.waiting, load.in_flight, load.payload_bytes


async def test_a_run_that_cannot_be_queued_does_not_affect_other_runs_of_its_batch(
    unqueueable_payloads,
):
    unqueueable_payloads.add(b'"bad"')
    async with Stage(flows=flows_with_latest()) as stage:
        first, bad, last = await stage.node.receive_all(arrivals("a", "bad", "b"))
        assert bad.state is State.DEAD
        await until(lambda: stage.node.unfinished == 0)
        assert states(stage, first, bad, last) == [State.SUCCEEDED, State.DEAD, State.SUCCEEDED]
        assert load_of(stage) == (0, 0, 0)


@pytest.mark.parametrize("crash", [True, False])
async def test_a_run_that_cannot_be_queued_at_a_start_is_set_aside(unqueueable_payloads, crash):
    disk = JournalContent()
    async with Stage(disk, flows=flows_with_latest()) as stage:
        stage.node.pause(True)
        accepted = await stage.node.receive_all(arrivals("a", "bad", "b"))
        if crash:
            stage.crash()
    unqueueable_payloads.add(b'"bad"')
    async with Stage(disk, flows=flows_with_latest()) as stage:
        await until(lambda: stage.node.unfinished == 0)
        assert states(stage, *accepted) == [State.SUCCEEDED, State.DEAD, State.SUCCEEDED]
        assert load_of(stage) == (0, 0, 0)


AMBIGUOUS_ANSWERS = {
    "nested deeper": b'{"id_node": 3, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "number that is too large": b'{"id_node": ' + b"9" * 5000 + b"}",
    "too large for a double": b'{"id_node": 3, "x": 1e400}',
    "given twice": b'{"id_node": 3, "id_node": 2}',
    "not UTF-8": b"\xff",
}


@pytest.mark.parametrize(("reason", "body"), AMBIGUOUS_ANSWERS.items(), ids=AMBIGUOUS_ANSWERS)
async def test_a_run_is_executed_here_after_an_ambiguous_answer_of_the_balancer(reason, body):
    async def answer(*_):
        return HttpResponse(200, b"", body)

    async with Stage() as stage:
        route = stage.dependencies.config.balancer
        stage.dependencies.balancer = HttpBalancer(MemoryCaller({f"{URL}/LB": answer}), route)
        accepted = await stage.send("2")
        await until(lambda: stage.node.unfinished == 0)
        assert stage.state(accepted.run) is State.SUCCEEDED
        placed = next(f for f in stage.disk.facts(accepted.run) if isinstance(f, Placed))
        assert placed.node == stage.dependencies.node_id
        assert reason in placed.reason


@pytest.mark.parametrize("body", AMBIGUOUS_ANSWERS.values(), ids=AMBIGUOUS_ANSWERS)
async def test_an_ambiguous_answer_of_a_peer_is_no_receipt(body):
    async def answer(*_):
        return HttpResponse(200, b"", body)

    caller = MemoryCaller({f"{URL}/n2": answer})
    offer = Offer("01J00000000000000000000001", 1, "me", "2", msgspec.Raw(b"1"))
    node = config().nodes["2"]
    assert await HttpPeers(caller).offer(node, offer, runs_this_program=True) == NoReceipt()


def test_a_bad_trigger_does_not_affect_the_other_triggers_of_its_batch(node, mosquitto):
    node.mode = "up"
    node.edit("comm", mqtt__port=mosquitto.port)
    node.start().wait_connected()
    bodies = [b'{"id_flow": "1", "payload": {"id": %d}}' % n for n in range(50)]
    bodies[20] = b'{"id_flow": "1", "payload": {"id": 1e400}}'
    command = ["mosquitto_pub", "-p", str(mosquitto.port), "-t", node.topic, "-q", "1", "-l"]
    subprocess.run(command, input=b"\n".join(bodies), check=True, timeout=30)
    wait_until(lambda: len(node.runs(State.SUCCEEDED)) == 49)
    (dead,) = node.runs(State.DEAD)
    assert "a number that is too large for a double" in dead.reason
    assert "Traceback" not in node.log


async def test_a_run_without_its_first_fact_is_set_aside_at_a_start(node):
    incomplete, other = run_ids(1, 2)
    await write_journal(node, {incomplete: ("2", b"{}"), other: ("2", b'{"id": 1}')}, clean=False)
    with closing(sqlite3.connect(node.state / "api.journal")) as db, db:
        body = b"[]"
        page_and_run = (body, page_checksum(chain_start(incomplete), 1, body), incomplete)
        run_number = "(SELECT no FROM runs WHERE id = ?)"
        db.execute(
            f"UPDATE pages SET body = ?, sum = ? WHERE place >> 24 = {run_number}", page_and_run
        )
        db.execute("UPDATE runs SET chain = ? WHERE id = ?", page_and_run[1:])
    node.start()
    wait_until(lambda: node.runs(State.DEAD))
    assert [run.id for run in node.runs(State.DEAD)] == [incomplete]
    assert node.runs(State.DEAD)[0].reason.endswith("has no accepted fact")
