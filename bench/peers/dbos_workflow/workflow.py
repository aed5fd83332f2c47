"""Flow 1 as a DBOS workflow on SQLite. Each of the four calls is a step. Triggers come by MQTT.

python workflow.py NGINX_PORT BROKER_PORT TOPIC FILE

A trigger is acknowledged when its workflow is in the database.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import aiohttp
import gmqtt
from dbos import DBOS
from gmqtt.mqtt.constants import MQTTv311

HOST = "127.0.0.1"
HANDLED = 0  # gmqtt sends PUBACK when a handler returns this
nginx_port, broker_port, topic, file = sys.argv[1:]
session: aiohttp.ClientSession


@DBOS.step()
async def place() -> Any:
    async with session.get("/LB/id_node") as answer:
        return await answer.json(content_type=None)


@DBOS.step()
async def post(*items: str) -> str:
    async with session.post("/endpoint1", json={"payload": items}) as answer:
        return await answer.text()


@DBOS.workflow()
async def flow_1(payload: str) -> None:
    if (await place())["id_node"] is not None:
        return
    result1 = await post(payload)
    result2 = await post(result1)
    await post(result1, result2)


async def on_message(_client: gmqtt.Client, _topic: str, payload: bytes, _qos: int, _: Any) -> int:
    await DBOS.start_workflow_async(flow_1, json.loads(payload)["payload"])
    return HANDLED


async def main() -> None:
    global session  # noqa: PLW0603 - steps are functions of the module
    session = aiohttp.ClientSession(f"http://{HOST}:{nginx_port}")
    DBOS.launch()
    client = gmqtt.Client("bench-dbos", clean_session=False, optimistic_acknowledgement=False)
    client.on_connect = lambda *_: client.subscribe(topic, qos=1)
    client.on_subscribe = lambda *_: print("subscribed", flush=True)
    client.on_message = on_message
    await client.connect(HOST, int(broker_port), version=MQTTv311)
    await asyncio.Event().wait()


DBOS(config={
    "name": "bench", "system_database_url": f"sqlite:///{file}", "log_level": "ERROR",
    "enable_otlp": False,
})  # fmt: skip
asyncio.run(main())
