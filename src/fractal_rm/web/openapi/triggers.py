"""The operations that start runs, and those of other nodes and of supervisors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from fractal_rm.domain.access import Scope
from fractal_rm.domain.node_description import NodeDescription
from fractal_rm.domain.pairing import PairAnswer, PairRequest
from fractal_rm.web.api.health import ReadinessResponse
from fractal_rm.web.api.triggers import TriggerResponse
from fractal_rm.web.openapi.operation import Answer, Body, Operation

RUN = "01M872C587MC9CTEMPDVW2QE67"
_ACCEPTED = {"run": RUN, "state": "accepted"}
_ENDED = {
    "run": RUN, "state": "succeeded", "reason": "", "results": ['{"ok": true}'],
    "reply": '{"ok": true}',
}  # fmt: skip
_HEADERS = {
    "Idempotency-Key": "the trigger id: a second request with it starts no second run",
    "Prefer": "`wait=N`: answer when the run has ended, or after N seconds",
    "Fractal-Time-Left": "the run must end within so many milliseconds",
    "traceparent": "W3C Trace Context",
}
_PROBLEMS = (404, 409, 413, 415, 422, 429)
NODE = {
    "kind": "fractal-rm", "version": "1.0.0", "protocol": 2, "node": "2", "store": "8d1f02c7a9be",
    "boot": "51b0c1f3d2aa", "draining": False, "paused": False, "in_flight": 3, "waiting": 12,
    "time_ms": 1790000000000,
}  # fmt: skip


_PAIR_REQUEST = {
    "address": ["2", "10.1.0.2", 5000, "startrm"],
    "certificate": "-----BEGIN CERTIFICATE-----…", "token": "frm_…", "now_ms": 1790000000000,
}  # fmt: skip


class CloudEvent(msgspec.Struct):
    """A CloudEvent 1.0 in structured mode. Other attributes are ignored."""

    specversion: Literal["1.0"]
    id: Annotated[str, msgspec.Meta(min_length=1)]
    source: Annotated[str, msgspec.Meta(min_length=1)]
    type: Annotated[str, msgspec.Meta(min_length=1)]
    data: Any = None
    traceparent: str | None = None


def _event(data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": "7", "source": "/line", "type": "frame.taken", "data": data,
    }  # fmt: skip


class Trigger(msgspec.Struct):
    """A trigger in the format of the original Runtime Manager. Other keys are ignored."""

    id_flow: str | int
    is_load_balancing: bool
    payload: Any
    id: str | None = None
    deadline_ms: int | None = None


def trigger_operations(endpoint: str) -> list[Operation]:
    """The operations. ``endpoint`` is that of `Rest.endpoint`."""
    described = Answer(200, "what this node is", NodeDescription, NODE)
    ready = {"ready": True, "checks": [{"name": "journal", "ok": True, "text": "writable"}]}
    pair_answer = {"node": "1", "token": "frm_…", "replaced": None}
    return [
        Operation(
            "POST", endpoint, "startRun", "Run a flow, in the format of the original",
            Scope.TRIGGER, (Answer(200, "the trigger is on the disk", TriggerResponse, _ACCEPTED),),
            body=Body(Trigger, {"id_flow": "1", "is_load_balancing": False, "payload": "0x03"},
                      event=_event({"id_flow": "1", "is_load_balancing": False, "payload": 1})),
            problems=_PROBLEMS, headers=_HEADERS,
        ),
        Operation(
            "GET", endpoint, "describeNodeAtEndpoint", "What this node is, for other nodes",
            Scope.READ, (described,), text="The scope `trigger` is enough.", problems=(429,),
        ),
        Operation(
            "POST", "/v1/flows/{flow_id}/runs", "startRunOfFlow", "Run a flow with a payload",
            Scope.TRIGGER,
            (Answer(200, "the run has ended", TriggerResponse, _ENDED,
                    headers={"Location": "the run"}),
             Answer(202, "the trigger is on the disk", TriggerResponse, _ACCEPTED,
                    headers={"Location": "the run"})),
            body=Body(Any, {"temperature": 21.5}, event=_event({"temperature": 21.5})),
            problems=_PROBLEMS, headers=_HEADERS,
        ),
        Operation(
            "GET", "/v1/node", "describeNode", "What this node is, and how busy it is",
            Scope.READ, (described,), text="The scope `trigger` is enough.",
        ),
        Operation(
            "PUT", "/v1/node/draining", "setDraining",
            "Begin (true) or end (false) to drain this node", Scope.OPERATE, (described,),
            body=Body(bool, True), problems=(413, 415, 422),
        ),
        Operation(
            "POST", "/v1/pair", "pair", "Join a node that has an invitation", None,
            (Answer(200, "the node was added", PairAnswer, pair_answer),),
            text="For `fractal-rm pair accept`. Needs the secret of an invitation as its token.",
            body=Body(PairRequest, _PAIR_REQUEST), problems=(404, 409, 413, 415, 422),
        ),
        Operation(
            "GET", "/livez", "isAlive", "Whether the process answers", Scope.READ,
            (Answer(200, "it answers", dict[str, str], {"status": "ok"}),),
        ),
        Operation(
            "GET", "/readyz", "isReady", "Whether triggers can be accepted", Scope.READ,
            (Answer(200, "they can", ReadinessResponse, ready),
             Answer(503, "they cannot: see the checks", ReadinessResponse,
                    {**ready, "ready": False})),
        ),
        Operation(
            "GET", "/metrics", "getMetrics", "Numbers of the node, for Prometheus", Scope.READ,
            (Answer(200, "numbers in the text format 0.0.4", str, None, "text/plain"),),
        ),
        Operation(
            "GET", "/schema", "describeInterface", "This document", Scope.READ,
            (Answer(200, "OpenAPI 3.1", dict[str, Any], None,
                    "application/vnd.oai.openapi+json"),),
        ),
    ]  # fmt: skip
