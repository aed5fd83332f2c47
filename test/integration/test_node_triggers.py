"""Real nodes: triggers by MQTT, by REST, by topic, and by schedule."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import gmqtt
from gmqtt.mqtt.constants import MQTTv311
from gmqtt.storage import PersistentStorage

from fractal_rm.domain.state import State
from nodes import NodeProcess, wait_until


def test_rm_mqtt_and_rm_api_run_at_the_same_time_on_one_node(make, tmp_path, mosquitto, components):
    api = make("both", broker=mosquitto.port).start()
    mqtt = api.second_process("mqtt")
    api_log = api.folder / "node.log"
    api_log.rename(api.folder / "api.log")
    mqtt.start()
    wait_until(lambda: "mqtt_connected" in mqtt.log)
    publish(mosquitto.port, api.topic, {"id_flow": "2", "payload": 1})
    api.trigger("2", Prefer="wait=30")
    wait_until(lambda: len(api.runs(State.SUCCEEDED)) == 2)
    assert {run.journal for run in api.runs()} == {"mqtt", "api"}
    assert listening_sockets(mqtt.process.pid) == []
    assert mqtt.stop() == 0
    assert api.stop() == 0


def publish(port: int, topic: str, message: object) -> None:
    """Publish one message at QoS 1 and wait for its PUBACK."""

    async def send():
        unacknowledged = PersistentStorage()
        client = gmqtt.Client("publisher", persistent_storage=unacknowledged)
        await client.connect("127.0.0.1", port, version=MQTTv311)
        client.publish(topic, json.dumps(message), qos=1)
        await unacknowledged.wait_empty()
        await client.disconnect()

    asyncio.run(send())


def listening_sockets(pid: int) -> list[str]:
    """The addresses of the TCP sockets on which a process listens, in hexadecimal."""
    open_files = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    inodes = {name[8:-1] for name in open_files if name.startswith("socket:")}
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()
    ]
    return [line[1] for line in lines if line[3] == "0A" and line[9] in inodes]


TRIGGERED_FLOWS = """\
1 at a topic
ON plant/+/frame
TO component1 1
POST payload

2 again and again
EVERY 200ms
TO component1 2
GET

3 at times
CRON "* * * * *" Europe/Rome
TO component2 1
POST payload
"""


def test_flows_are_triggered_by_their_topic_and_their_schedule(make, mosquitto):
    node = make(broker=mosquitto.port, mode="up")
    (node.config / "flows.conf").write_text(TRIGGERED_FLOWS)
    node.start().wait_connected()
    publish(mosquitto.port, "plant/7/frame", {"n": 7})
    publish(mosquitto.port, "plant/frame", "for no flow")
    assert first_runs(node, "1", 1) == [("mqtt", {"n": 7})]
    scheduled = first_runs(node, "2", 3)
    assert {source for source, _ in scheduled} == {"schedule"}
    times = [datetime.fromisoformat(payload["at"].removesuffix("Z")) for _, payload in scheduled]
    intervals = [later - earlier for earlier, later in pairwise(times)]
    assert all(each and not each % timedelta(milliseconds=200) for each in intervals)
    assert node.stop() == 0
    move_stop_back(node, "3 CRON", 600)
    ((source, payload), *_) = first_runs(node.start(), "3", 1)
    assert (source, payload["at"][-4:]) == ("schedule", ":00Z")
    assert node.stop() == 0


def first_runs(node: NodeProcess, flow: str, count: int) -> list[tuple[str, object]]:
    """Wait for ``count`` runs of a flow. Returns the source and payload of each, oldest first."""
    path = f"/v1/runs?flow={flow}&state=succeeded"

    def ended_runs():
        runs = node.get(path).body["runs"]
        return len(runs) >= count and runs

    ids = sorted(run["id"] for run in wait_until(ended_runs))[:count]
    first_facts = [node.history.run(run_id).facts[0].fact for run_id in ids]
    return [(fact.source, json.loads(bytes(fact.payload))) for fact in first_facts]


def move_stop_back(node: NodeProcess, rule: str, seconds: int) -> None:
    """Change the progress of a rule as if the node had been stopped ``seconds`` earlier."""
    path = node.state / "schedules.json"
    progress = json.loads(path.read_text())
    (name,) = [each for each in progress if each.startswith(rule)]
    path.write_text(json.dumps({**progress, name: progress[name] - seconds * 1000}))


FLOW_WITH_SETTINGS = """\
1 calls with settings
DEADLINE 60s
TO component1 1
GET
  AS found
  RETRY 3 EVERY 10ms
TO component2 1
PUT JSON {"score": found.score, "line": payload}     # GET succeeds at its second try
  WHEN found.score > 0.5 and status(found) == 200
  QUERY q "a b"
DELETE
  EXPECT status(result3) in [200, 404]
TO component3 1
GET
  WHEN found.score > 1
"""


def test_the_settings_of_calls_are_applied(make, components):
    node = make("settings")
    (node.config / "flows.conf").write_text(FLOW_WITH_SETTINGS)
    node.start()
    get_answers = iter([(503, "busy"), (200, '{"score": 0.75}')])
    components.answers["/endpoint1"] = lambda handler, _: (
        next(get_answers) if handler.command == "GET" else (404, "gone")
    )
    _, _, answer = node.trigger("1", payload="L7", Prefer="wait=30")
    assert answer["state"] == "succeeded"
    assert json.loads(answer["results"][0]) == {"score": 0.75}
    assert answer["results"][2:] == ["gone", None]
    paths = [request.path for request in components.requests]
    assert paths == ["/endpoint1", "/endpoint1", "/endpoint1?q=a%20b", "/endpoint1"]
    assert json.loads(components.requests[2].body) == {"score": 0.75, "line": "L7"}
    assert node.stop() == 0
