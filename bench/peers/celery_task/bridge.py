"""Passes triggers from MQTT to Celery. A trigger is acknowledged after its task is in Redis."""

from __future__ import annotations

import json
import sys

import paho.mqtt.client as mqtt
from tasks import flow_1

host, port, topic = sys.argv[1:]


def subscribe(client: mqtt.Client, *_: object) -> None:
    client.subscribe(topic, qos=1)


def print_subscribed(*_: object) -> None:
    print("subscribed", flush=True)


def on_message(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
    flow_1.delay(json.loads(message.payload)["payload"])


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.on_connect = subscribe
client.on_subscribe = print_subscribed
client.on_message = on_message
client.connect(host, int(port))
client.loop_forever()
