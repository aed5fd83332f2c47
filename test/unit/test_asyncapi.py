"""The description of the MQTT side (AsyncAPI 3), docs/reference/asyncapi.json, is made here.

After a change, run `python test/unit/test_asyncapi.py` to write the file again.

asyncapi_schema.json.gz is the JSON schema of AsyncAPI 3.0.0, from the package @asyncapi/specs
6.11.1 (Apache-2.0), without its ids and without line ends.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from fractal_rm import __version__
from fractal_rm.adapters.mqtt.client import status_body
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.refusals import Refused
from fractal_rm.domain.topic import status_topic
from fractal_rm.domain.trigger import Arrival, TriggerSource, decode_trigger
from fractal_rm.engine.reply import ReplyMessage

FILE = Path(__file__).parents[2] / "docs" / "reference" / "asyncapi.json"
SCHEMA = Path(__file__).with_name("asyncapi_schema.json.gz")
RUN = "01M872C587MC9CTEMPDVW2QE67"
STATUSES = ("online", "stopped", "lost")
JSON = "application/json"
TRIGGER = {
    "type": "object",
    "required": ["id_flow", "payload"],
    "properties": {
        "id_flow": {
            "type": ["string", "integer"],
            "description": "the id of the flow: the number in its first line",
        },
        "payload": {"description": "any JSON"},
        "id": {
            "type": "string", "minLength": 1, "maxLength": 200,
            "description": "the trigger id: a second message with it starts no second run",
        },
        "deadline_ms": {
            "type": "integer", "minimum": 1,
            "description": "the run must end within this time after the arrival of the message",
        },
    },
}  # fmt: skip
PROPERTIES = {
    "type": "object",
    "description": "user properties of MQTT 5",
    "properties": {
        "Idempotency-Key": {"type": "string", "description": "the trigger id"},
        "traceparent": {"type": "string", "description": "W3C Trace Context"},
    },
}
EXAMPLES: dict[str, list[Any]] = {
    "trigger": [{"id_flow": "1", "payload": {"temperature": 21.5}, "id": "m-7"}],
    "reply": [{"run": RUN, "state": "succeeded", "reply": "ok"}],
}


def document() -> dict[str, Any]:
    """The whole description, as values of JSON."""
    (reply,), components = msgspec.json.schema_components(
        [ReplyMessage], ref_template="#/components/schemas/{name}"
    )
    at_least_once = {"mqtt": {"qos": 1, "bindingVersion": "0.2.0"}}
    statuses = [json.loads(status_body(state)) for state in STATUSES]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "FRACTAL Runtime Manager over MQTT",
            "version": __version__,
            "description": "Triggers arrive, and replies and the status of the node are published."
            " docs/reference/mqtt.md has the rules.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": JSON,
        "servers": {
            "broker": {
                "host": "{host}:{port}",
                "protocol": "mqtt",
                "protocolVersion": "5",
                "description": "mqtt.host and mqtt.port; MQTT 3.1.1 is used if a broker has no 5",
                "variables": {
                    "host": {"default": "127.0.0.1"}, "port": {"default": "1883"},
                },
                "bindings": {"mqtt": {
                    "cleanSession": False,
                    "keepAlive": Mqtt().keepalive,
                    "lastWill": {
                        "topic": status_topic("{clientId}"), "qos": 1, "retain": True,
                        "message": status_body("lost").decode(),
                    },
                    "bindingVersion": "0.2.0",
                }},
            }
        },
        "channels": {
            "triggers": _channel("{topic}", "mqtt.topic in comm.conf", "trigger", {
                "topic": {"default": Mqtt().topic, "description": "mqtt.topic; may be a filter"},
            }),
            "flows": _channel("{topic}", "topics that the ON of a flow matches", "event", {
                "topic": {"description": "a topic that the ON of a flow matches"},
            }),
            "replies": _channel(None, "the Response Topic of a trigger", "reply"),
            "status": _channel(status_topic("{clientId}"), "whether the node is online", "status", {
                "clientId": {"description": "mqtt.client_id, or the id that the node has made"},
            }),
        },
        "operations": {
            "receiveTrigger": {
                "action": "receive", "channel": _ref("channels/triggers"),
                "summary": "Run a flow", "bindings": at_least_once,
                "reply": {
                    "address": {
                        "location": "$message.header#/responseTopic",
                        "description": "Response Topic of MQTT 5; without it, there is no reply",
                    },
                    "channel": _ref("channels/replies"),
                },
            },
            "receiveEvent": {
                "action": "receive", "channel": _ref("channels/flows"),
                "summary": "Run the flows whose ON matches the topic", "bindings": at_least_once,
            },
            "sendStatus": {
                "action": "send", "channel": _ref("channels/status"),
                "summary": "Say whether the node is online, as a retained message",
                "bindings": {"mqtt": {"qos": 1, "retain": True, "bindingVersion": "0.2.0"}},
            },
        },
        "components": {
            "messages": {
                "trigger": _message("A request to run a flow", TRIGGER, EXAMPLES["trigger"])
                | {"headers": PROPERTIES},
                "event": _message("The payload of the flow: JSON, or text", {}, [{"at": 1}])
                | {"headers": PROPERTIES},
                "reply": _message("How a run ended", reply, EXAMPLES["reply"]) | {
                    "correlationId": {
                        "location": "$message.header#/correlationData",
                        "description": "the Correlation Data of the trigger",
                    },
                },
                "status": _message("The status of the node", {
                    "type": "object", "required": ["state"],
                    "properties": {"state": {"enum": list(STATUSES)}},
                }, statuses),
            },
            "schemas": components,
        },
    }  # fmt: skip


def _ref(path: str) -> dict[str, str]:
    return {"$ref": f"#/{path}"}


def _channel(
    address: str | None, text: str, message: str, parameters: dict[str, Any] | None = None
) -> dict[str, Any]:
    channel = {
        "address": address, "description": text,
        "messages": {message: _ref(f"components/messages/{message}")},
    }  # fmt: skip
    return channel | ({"parameters": parameters} if parameters else {})


def _message(summary: str, payload: Any, examples: list[Any]) -> dict[str, Any]:
    return {
        "summary": summary, "contentType": JSON, "payload": payload,
        "examples": [{"payload": example} for example in examples],
    }  # fmt: skip


def as_text() -> str:
    return json.dumps(document(), indent=2) + "\n"


def test_the_description_is_that_of_the_code():
    assert FILE.read_text() == as_text()


def test_the_description_is_valid_asyncapi():
    schema = json.loads(gzip.decompress(SCHEMA.read_bytes()))
    errors = jsonschema_rs.validator_for(schema).iter_errors(document())
    assert [f"{error.instance_path}: {error.message}" for error in errors] == []


def test_the_examples_are_read_by_the_program():
    for example in EXAMPLES["trigger"]:
        trigger = decode_trigger(Arrival(TriggerSource.MQTT, json.dumps(example).encode()), 1_000)
        assert (trigger.flow_id, trigger.key) == (example["id_flow"], example["id"])
    for example in EXAMPLES["reply"]:
        msgspec.json.decode(json.dumps(example).encode(), type=ReplyMessage)


@pytest.mark.parametrize(
    "change",
    [{"id_flow": None}, {"id_flow": 1.5}, {"id": ""}, {"id": "x" * 201}, {"id": 1},
     {"deadline_ms": 0}, {"deadline_ms": "1"}, {"payload": ...}, {"id_flow": ...}],
)  # fmt: skip
def test_what_the_description_forbids_is_refused(change):
    content = {**EXAMPLES["trigger"][0], **change}
    content = {key: value for key, value in content.items() if value is not ...}
    assert not jsonschema_rs.is_valid(TRIGGER, content)
    with pytest.raises(Refused):
        decode_trigger(Arrival(TriggerSource.MQTT, json.dumps(content).encode()), 1_000)


if __name__ == "__main__":
    FILE.write_text(as_text())
