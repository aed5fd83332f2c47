"""Kill -9 at random moments under load: nothing that was acknowledged is lost (G1, G2, G16)."""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
import time

import gmqtt
import pytest
from gmqtt.mqtt.constants import MQTTv311

from fractal_rm.domain.run import Accepted, State
from nodes import NodeProcess, wait_until

KILLS = 50
LOAD_PAUSE_S = 0.004


class RestLoad(threading.Thread):
    """Posts triggers one after another; what was answered with 200 was acknowledged."""

    def __init__(self, node: NodeProcess) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.acknowledged: dict[str, str] = {}  # trigger id: run
        self.stop = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            key = f"rest-{number}"
            try:
                status, _, answer = self.node.trigger(payload=key, Idempotency_Key=key)
            except (OSError, ValueError, EOFError) as _:
                time.sleep(0.01)  # the same trigger again, under the same id
                continue
            except Exception:  # noqa: BLE001 - http.client's own: the answer was cut off
                continue
            if status == 200:
                self.acknowledged[key] = answer["run"]
                number += 1
                time.sleep(LOAD_PAUSE_S)


class MqttLoad(threading.Thread):
    """Publishes triggers at QoS 1; the broker keeps each until the node acknowledges it."""

    def __init__(self, node: NodeProcess, port: int) -> None:
        super().__init__(daemon=True)
        self.node, self.port = node, port
        self.published: list[str] = []
        self.stop = threading.Event()

    def run(self) -> None:
        asyncio.run(self._publish())

    async def _publish(self) -> None:
        client = gmqtt.Client("load")
        await client.connect("127.0.0.1", self.port, version=MQTTv311)
        while not self.stop.is_set():
            key = f"mqtt-{len(self.published)}"
            body = {"id_flow": "1", "payload": key, "id": key}
            client.publish(self.node.topic, json.dumps(body), qos=1)
            self.published.append(key)
            await asyncio.sleep(LOAD_PAUSE_S)
        await client._persistent_storage.wait_empty()
        await client.disconnect()


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_nothing_acknowledged_is_lost_by_fifty_kills(
    tmp_path, components, mosquitto, record_property
):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    node = NodeProcess(tmp_path / "n", components=components.port, broker=mosquitto.port)
    node.edit("comm", recovery__max_attempts=100)  # what the kills interrupt is not at fault
    node.start().wait_connected()
    rest, mqtt = RestLoad(node), MqttLoad(node, mosquitto.port)
    rest.start()
    mqtt.start()
    recovery_s = []
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.0, 0.4))
        node.kill()
        began = time.monotonic()
        node.start()
        recovery_s.append(time.monotonic() - began)
    rest.stop.set()
    mqtt.stop.set()
    rest.join(20)
    mqtt.join(20)
    node.wait_connected()
    total = len(rest.acknowledged) + len(mqtt.published)
    wait_until(lambda: len(node.runs(State.SUCCEEDED)) >= total, within_s=90)
    assert node.stop() == 0

    runs = {run.id: run for run in node.runs()}
    lost = [key for key, run in rest.acknowledged.items() if run not in runs]
    keys = {
        fact.fact.key: run_id
        for run_id in runs
        for fact in node.history.run(run_id).facts[:1]
        if isinstance(fact.fact, Accepted)
    }
    lost += [key for key in mqtt.published if key not in keys]
    assert lost == []
    assert len(keys) == len(runs), "a trigger became two runs"
    assert {run.state for run in runs.values()} == {State.SUCCEEDED}
    assert node.problems() == []
    (account,) = node.history.ledger()
    assert account.received == len(runs) == sum(account.states.values())
    requests = components.per_key()
    assert set(requests) == {f"{run}:{step}" for run in runs for step in (1, 2, 3)}
    repeated = sum(count - 1 for count in requests.values())
    said = (
        f"{KILLS} kills, {total} acknowledged, {len(lost)} lost, {repeated} calls repeated,"
        f" back within {max(recovery_s):.2f} s"
    )
    print(said)
    record_property("figures", said)
    assert len(re.findall("after_crash=True", node.log)) == KILLS
