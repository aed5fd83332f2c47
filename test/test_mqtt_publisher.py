"""Publishes a trigger on the topic to which the Runtime Manager is subscribed.

    python test_mqtt_publisher.py [FLOW]

Host, port and topic come from ../runtime_manager/config_files/comm.conf. This file is a
program, not a pytest test.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

import gmqtt
from gmqtt.mqtt.constants import MQTTv311
from gmqtt.storage import PersistentStorage

COMM = Path(__file__).resolve().parent.parent / "runtime_manager" / "config_files" / "comm.conf"
PAYLOAD = "0x03abcdefghil"


async def publish(host: str, port: int, topic: str, flow: str, payload: object) -> None:
    """Publish one trigger at QoS 1 and wait for its PUBACK. Raises OSError."""
    unacknowledged = PersistentStorage()
    client = gmqtt.Client(None, persistent_storage=unacknowledged)
    await client.connect(host, port, version=MQTTv311)  # every broker supports MQTT 3.1.1
    message = {"id_flow": flow, "payload": payload}
    client.publish(topic, json.dumps(message), qos=1)
    await unacknowledged.wait_empty()
    await client.disconnect()
    print(f"published on {topic} at {host}:{port}: {json.dumps(message)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("flow", nargs="?", default="1", help="the flow to start (default: 1)")
    flow_id = parser.parse_args().flow
    mqtt = json.loads(COMM.read_text())["mqtt"]
    try:
        asyncio.run(publish(mqtt["host"], mqtt["port"], mqtt["topic"], flow_id, PAYLOAD))
    except OSError as error:
        address = f"{mqtt['host']}:{mqtt['port']}"
        sys.exit(f"cannot connect to a broker at {address}: {error.strerror or error}")
