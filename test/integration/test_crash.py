"""A node is killed at random times under load. Each acknowledged trigger must become one run."""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
import time
from collections import Counter

import gmqtt
import pytest
from gmqtt.mqtt.constants import MQTTv311

from fractal_rm.domain.facts import (
    AnyFact,
    ElementFinished,
    Finished,
    RequestStarted,
    StepUndone,
    request_name,
    undo_request_name,
)
from fractal_rm.domain.state import State
from nodes import NodeProcess, wait_until

KILLS = 25
LOAD_PAUSE_S = 0.02

# Flows with every kind of step. If the payload contains a 7, the last step fails, and the earlier
# steps are undone.
EVERY_KIND = """\
1
DURABLE step
TO component1 1
GET
  AS list
  UNDO 2 payload
TO component2 1
POST item
  FOREACH list.items
  LIMIT 2
WAIT 20ms
PUBLISH test/alerts list.items
TO component3 2
POST payload
  RETRY 5 EVERY 10ms
  UNDO 2
RUN 2 list.items
  AS inner
POST payload
  WHEN inner == null
REPLY inner
TO component1 1
GET
  EXPECT not "7" in payload

2
DURABLE step
ORDER dataflow
TO component1 1
POST payload
TO component2 1
POST item
  FOREACH payload
  LIMIT 3
WAIT 5ms
REPLY JSON {"one": result1, "all": result2}
"""
EVERY_KIND_KILLS = 12
EVERY_KIND_PAUSE_S = 0.05


def payload_of(key: str) -> str:
    """The payload of a trigger. Some payloads are so large that they are stored in blobs."""
    return key + "x" * (70_000 if key.endswith("3") else 0)


class RestLoad(threading.Thread):
    """Posts triggers, one after the other. A response with status 200 acknowledges the trigger."""

    def __init__(self, node: NodeProcess, pause_s: float = LOAD_PAUSE_S) -> None:
        super().__init__(daemon=True)
        self.node, self.pause_s = node, pause_s
        self.acknowledged: dict[str, str] = {}  # trigger id -> run id
        self.stop = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            key = f"rest-{number}"
            try:
                status, _, answer = self.node.trigger(payload=payload_of(key), Idempotency_Key=key)
            except (OSError, ValueError, EOFError) as _:
                time.sleep(0.01)  # then the same trigger is sent again, with the same id
                continue
            except Exception:  # noqa: BLE001 - errors of http.client: incomplete response
                continue
            if status == 200:
                self.acknowledged[key] = answer["run"]
                number += 1
                time.sleep(self.pause_s)


class LoadClient(gmqtt.Client):
    """A client that can wait until the broker has acknowledged all messages."""

    async def wait_acknowledged(self) -> None:
        await self._persistent_storage.wait_empty()


class MqttLoad(threading.Thread):
    """Publishes triggers at QoS 1. The broker keeps each trigger until the node acknowledges it."""

    def __init__(self, node: NodeProcess, port: int, pause_s: float = LOAD_PAUSE_S) -> None:
        super().__init__(daemon=True)
        self.node, self.port, self.pause_s = node, port, pause_s
        self.published: list[str] = []
        self.stop = threading.Event()

    def run(self) -> None:
        asyncio.run(self._publish())

    async def _publish(self) -> None:
        client = LoadClient("load")
        await client.connect("127.0.0.1", self.port, version=MQTTv311)
        while not self.stop.is_set():
            key = f"mqtt-{len(self.published)}"
            body = {"id_flow": "1", "payload": payload_of(key), "id": key}
            client.publish(self.node.topic, json.dumps(body), qos=1)
            self.published.append(key)
            await asyncio.sleep(self.pause_s)
        await client.wait_acknowledged()
        await client.disconnect()


def kill_under_load(
    rest_load: RestLoad, mqtt_load: MqttLoad, kills: int, rng: random.Random
) -> list[float]:
    """Kill and start the node ``kills`` times under load. Returns how long each start took."""
    node = rest_load.node
    rest_load.start()
    mqtt_load.start()
    recovery_s = []
    for _ in range(kills):
        time.sleep(rng.uniform(0.0, 0.4))
        node.kill()
        start_s = time.monotonic()
        node.start()
        recovery_s.append(time.monotonic() - start_s)
    rest_load.stop.set()
    mqtt_load.stop.set()
    rest_load.join(20)
    mqtt_load.join(20)
    return recovery_s


def facts_of(node: NodeProcess, run_ids) -> dict[str, list[AnyFact]]:
    """The facts of each of these runs, by run id."""
    history = node.history
    return {run_id: [each.fact for each in history.run(run_id).facts] for run_id in run_ids}


def lost_keys(rest_load: RestLoad, mqtt_load: MqttLoad, run_ids: dict[str, str]) -> list[str]:
    """The ids of acknowledged triggers whose run is missing or is not the run in the response.

    ``run_ids`` has the ids of the runs in the journal, by trigger id.
    """
    lost_rest_keys = [key for key, run in rest_load.acknowledged.items() if run_ids.get(key) != run]
    return lost_rest_keys + [key for key in mqtt_load.published if key not in run_ids]


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_many_kills_lose_no_acknowledged_trigger(tmp_path, components, mosquitto, record_property):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    node = NodeProcess(tmp_path / "n", components=components.port, broker=mosquitto.port)
    node.edit("comm", recovery__max_attempts=100)  # each kill counts as an attempt
    node.start().wait_connected()
    rest_load, mqtt_load = RestLoad(node), MqttLoad(node, mosquitto.port)
    recovery_s = kill_under_load(rest_load, mqtt_load, KILLS, rng)
    node.wait_connected()
    total = len(rest_load.acknowledged) + len(mqtt_load.published)
    wait_until(lambda: len(node.runs(State.SUCCEEDED)) >= total, within_s=90)
    assert node.stop() == 0

    runs = {run.id: run for run in node.runs()}
    facts_by_run = facts_of(node, runs)
    run_ids = {first.key: run_id for run_id, (first, *_) in facts_by_run.items()}
    lost_ids = lost_keys(rest_load, mqtt_load, run_ids)
    assert lost_ids == []
    for first, *_ in facts_by_run.values():
        assert json.loads(bytes(first.payload)) == payload_of(first.key)
    assert len(run_ids) == len(runs), "a trigger became two runs"
    assert {run.state for run in runs.values()} == {State.SUCCEEDED}
    assert node.problems() == []
    (counts,) = node.history.flow_counts()
    assert counts.received == len(runs) == sum(counts.states.values())
    requests = components.per_key()
    assert set(requests) == {f"{run}:{step}" for run in runs for step in (1, 2, 3)}
    repeated = sum(count - 1 for count in requests.values())
    figures = (
        f"{KILLS} kills, {total} acknowledged, {len(lost_ids)} lost_ids, {repeated} calls repeated,"
        f" started again within {max(recovery_s):.2f} s"
    )
    print(figures)
    record_property("figures", figures)
    assert len(re.findall("after_crash=True", node.log)) == KILLS


# --- repeated calls -----------------------------------------------------------------------------

BURST = 300  # so many triggers that some runs are still open at the last kill
BURST_KILLS = 3
CALLS_BETWEEN = 20, 90
IN_FLIGHT = 8  # so few runs that each makes several calls during one write of the log


def publish_burst(node: NodeProcess, port: int, count: int) -> None:
    """Publish triggers as fast as possible. Returns when the broker has all of them."""

    async def publish() -> None:
        client = LoadClient("burst")
        await client.connect("127.0.0.1", port, version=MQTTv311)
        for number in range(count):
            body = {"id_flow": "1", "payload": str(number), "id": f"burst-{number}"}
            client.publish(node.topic, json.dumps(body), qos=1)
        await client.wait_acknowledged()
        await client.disconnect()

    asyncio.run(publish())


@pytest.mark.parametrize("durable", ["accept", "step"])
def test_after_a_kill_in_a_burst_at_most_one_call_of_each_run_is_repeated(
    tmp_path, components, mosquitto, record_property, durable
):
    """Data that the process has written survives a kill, even if it was not synced."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    node = NodeProcess(tmp_path / "n", components=components.port, broker=mosquitto.port)
    node.edit("comm", recovery__max_attempts=100)  # each kill counts as an attempt
    node.edit("comm", state__max_inflight_runs=IN_FLIGHT)
    flows = (node.config / "flows.conf").read_text()
    (node.config / "flows.conf").write_text(flows.replace("1\n", f"1\nDURABLE {durable}\n", 1))
    node.start().wait_connected()
    publish_burst(node, mosquitto.port, BURST)
    for _ in range(BURST_KILLS):
        wanted_requests = len(components.requests) + rng.randint(*CALLS_BETWEEN)
        wait_until(
            lambda wanted_requests=wanted_requests: len(components.requests) >= wanted_requests
        )
        node.kill()
        node.start()
    wait_until(lambda: len(node.runs(State.SUCCEEDED)) >= BURST)
    assert node.stop() == 0

    runs = {run.id for run in node.runs()}
    keys = {first.key for first, *_ in facts_of(node, runs).values()}
    assert (len(runs), keys) == (BURST, {f"burst-{number}" for number in range(BURST)})
    assert node.problems() == []
    calls = components.per_key()
    assert set(calls) == {f"{run}:{step}" for run in runs for step in (1, 2, 3)}
    repeated = calls.total() - len(calls)
    assert repeated <= BURST_KILLS * IN_FLIGHT
    figures = (
        f"DURABLE {durable}: {BURST_KILLS} kills with {IN_FLIGHT} runs in flight,"
        f" {repeated} calls repeated"
    )
    print(figures)
    record_property("figures", figures)


# --- every kind of step -------------------------------------------------------------------------


def refuse_first_requests():
    """Return an answer of a component: 503 to the first request of each call, then 200.

    The first request of a call that undoes a step gets 200.
    """
    requests_by_key: Counter[str] = Counter()

    def answer(handler, _body):
        key = handler.headers["Idempotency-Key"]
        requests_by_key[key] += 1
        busy = requests_by_key[key] == 1 and "undo" not in key
        return (503, "busy") if busy else (200, "null")

    return answer


def wrong_requests(run_id: str, facts: list[AnyFact], requests: Counter[str]) -> list[str]:
    """Return a text about each wrong request of a run.

    A request is wrong if it was sent after the end of its call was recorded, or if its start was
    not recorded.
    """
    start_counts: Counter[str] = Counter()
    ended_calls: set[str] = set()
    after_end = []
    for fact in facts:
        if isinstance(fact, RequestStarted):
            name = request_name(fact.step, fact.part)
            start_counts[name] += 1
            if name in ended_calls:
                after_end.append(f"{run_id}:{name}, although it had ended_calls")
        elif isinstance(fact, (Finished, ElementFinished)):
            element = f".{fact.element}" if isinstance(fact, ElementFinished) else ""
            ended_calls.add(f"{fact.step}{element}")
        elif isinstance(fact, StepUndone):
            ended_calls.add(undo_request_name(fact.step))
    unrecorded = [
        f"{key}: {count} requests, but {start_counts[name]} starts were recorded"
        for key, count in requests.items()
        for owner, _, name in [key.partition(":")]
        if owner == run_id and count > start_counts[name]
    ]
    return after_end + unrecorded


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_flow_with_every_kind_of_step_is_resumed_after_kills(
    tmp_path, components, mosquitto, record_property
):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    components.answers["/endpoint1"] = 200, '{"items": [1, 2, 3]}'
    components.answers["/endpoint2"] = refuse_first_requests()
    node = NodeProcess(tmp_path / "n", components=components.port, broker=mosquitto.port)
    node.edit("comm", recovery__max_attempts=100)  # each kill counts as an attempt
    (node.config / "flows.conf").write_text(EVERY_KIND)
    node.start().wait_connected()
    rest_load = RestLoad(node, EVERY_KIND_PAUSE_S)
    mqtt_load = MqttLoad(node, mosquitto.port, EVERY_KIND_PAUSE_S)
    recovery_s = kill_under_load(rest_load, mqtt_load, EVERY_KIND_KILLS, random.Random(seed))
    node.wait_connected()
    total = len(rest_load.acknowledged) + len(mqtt_load.published)
    wait_until(
        lambda: len(runs := node.runs()) >= 2 * total and all(run.state.final for run in runs),
        within_s=90,
    )
    assert node.stop() == 0

    facts = facts_of(node, [run.id for run in node.runs()])
    run_ids = {first.key: run_id for run_id, (first, *_) in facts.items()}
    assert lost_keys(rest_load, mqtt_load, run_ids) == []
    # A trigger id that begins with NUL is that of a child run.
    parents = {key: run_id for key, run_id in run_ids.items() if not key.startswith("\0")}
    origins = {run_id: facts[run_id][0].origin for run_id in facts.keys() - parents.values()}
    assert sorted(origins.values()) == sorted(f"{run_id}:4" for run_id in parents.values())
    assert node.problems() == []
    states = {run.id: run.state for run in node.runs()}
    for key, run_id in parents.items():
        assert states[run_id] is (State.FAILED if "7" in key else State.SUCCEEDED), facts[run_id]
    assert {states[run_id] for run_id in origins} == {State.SUCCEEDED}
    undone = [f"{run_id}:{fact.step}" for run_id, run_facts in facts.items()
              for fact in run_facts if isinstance(fact, StepUndone)]  # fmt: skip
    failed = [run_id for key, run_id in parents.items() if "7" in key]
    assert sorted(undone) == sorted(f"{run_id}:{step}" for run_id in failed for step in (1, 3))
    requests = components.per_key()
    all_keys = {
        f"{run_id}:{name}"
        for key, run_id in parents.items()
        for name in ("1", "2.1", "2.2", "2.3", "3", "6", *(("undo.1", "undo.3") * ("7" in key)))
    }
    all_keys |= {f"{run_id}:{name}" for run_id in origins for name in ("1", "2.1", "2.2", "2.3")}
    assert set(requests) == all_keys
    problems = [
        each for run_id in facts for each in wrong_requests(run_id, facts[run_id], requests)
    ]
    assert problems == []
    figures = (
        f"{EVERY_KIND_KILLS} kills, {total} acknowledged, {len(facts)} runs, {len(requests)} calls,"
        f" {requests.total() - len(requests)} made again,"
        f" started again within {max(recovery_s):.2f} s"
    )
    print(figures)
    record_property("figures", figures)
