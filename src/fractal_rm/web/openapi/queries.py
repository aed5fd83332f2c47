"""The operations that only read."""

from __future__ import annotations

from typing import Any

from fractal_rm.adapters.local_socket.other_processes import Statuses
from fractal_rm.domain.access import Scope
from fractal_rm.domain.flow import Flow
from fractal_rm.engine.ports import Count, Failures
from fractal_rm.web.api.bulk import BulkResponse, BulksResponse
from fractal_rm.web.api.events import EventsQuery
from fractal_rm.web.api.filters import Conditions, DeadQuery, RunsQuery
from fractal_rm.web.api.questions import MinutesQuery, MinutesResponse
from fractal_rm.web.api.run_view import RunResponse
from fractal_rm.web.api.runs import RunsResponse
from fractal_rm.web.api.status import ComponentsResponse, NodesResponse
from fractal_rm.web.config_check import ConfigView
from fractal_rm.web.openapi.operation import Answer, Operation
from fractal_rm.web.openapi.triggers import RUN

_ETAG = {"ETag": "the version of this content", "Cache-Control": "`private, no-cache`"}
_IF_NONE_MATCH = {"If-None-Match": "the `ETag` of a copy that the client has"}
_NOT_MODIFIED = Answer(304, "the client has this version", headers=_ETAG)
_SUMMARY = {
    "id": RUN, "flow": "12", "state": "failed", "reason": "step 2: status 503", "source": "mqtt",
    "node": None, "accepted_ms": 1790000000000, "settled_ms": 1790000001430, "journal": "up",
    "parent": None, "component": "component7", "cause": "status", "replays": None,
    "handled": None,
}  # fmt: skip
_PAGE = {"runs": [_SUMMARY], "next": None, "searched_to_ms": None, "unreadable": []}
_SEARCH = (
    "The newest runs come first. A search ends after about 0.1 s: then `searched_to_ms` says how"
    " far it came, and `next` continues it. Follow `next` until it is null, even if a page is"
    " empty."
)
BULK = {
    "id": "5f0c2a9e", "action": "replay", "actor": "token line-3", "state": "running",
    "progress": {"total": 3412, "done": 120, "refused": 1, "refusals": {"already-handled": 1},
                 "last_refusal": "the run was repeated before", "finished": False},
    "error": "",
}  # fmt: skip
_EVENTS = (
    "retry: 3000\nevent: open\nid: 51b0c1f3-17\ndata: {}\n\nevent: runs\nid: 51b0c1f3-18\n"
    f'data: [{{"run":"{RUN}","flow":"1","state":"succeeded","at_ms":1790000000120,'
    '"accepted_ms":1790000000100}]\n\n'
)


def query_operations() -> list[Operation]:
    """The operations."""
    return [*_about_runs(), *_about_the_node()]


def _about_runs() -> list[Operation]:
    group = {
        "state": "failed", "flow": "12", "component": "component7", "cause": "status",
        "shape": "status #: upstream busy", "count": 3412, "first_ms": 1790000000000,
        "last_ms": 1790000900000, "newest": RUN, "reason": "status 503: upstream busy",
    }  # fmt: skip
    failures = {"groups": [group], "searched_to_ms": None, "unreadable": []}
    minute = {"at_ms": 1790000000000, "flow": "12", "state": "succeeded", "runs": 412,
              "durations": [0, 12, 400]}  # fmt: skip
    minutes = {"since_ms": 1790000000000, "until_ms": 1790003600000, "minutes": [minute]}
    count: dict[str, Any] = {
        "number": 3412,
        "is_exact": True,
        "searched_to_ms": None,
        "unreadable": [],
    }
    return [
        Operation(
            "GET", "/v1/runs", "listRuns", "Runs that match a filter", Scope.READ,
            (Answer(200, "a page of runs", RunsResponse, _PAGE),), _SEARCH, RunsQuery,
        ),
        Operation(
            "GET", "/v1/runs/count", "countRuns", "How many runs match a filter", Scope.READ,
            (Answer(200, "their number", Count, count),),
            "If `is_exact` is false, there are at least so many.", Conditions,
        ),
        Operation(
            "GET", "/v1/runs/{run_id}", "showRun", "One run: its facts, and why", Scope.READ,
            (Answer(200, "the run", RunResponse, headers=_ETAG), _NOT_MODIFIED),
            'Without the scope `payload`, values are `"(hidden)"`.', problems=(404,),
            headers=_IF_NONE_MATCH,
        ),
        Operation(
            "GET", "/v1/failures", "listFailures", "Runs in trouble, by kind of failure",
            Scope.READ, (Answer(200, "the kinds, the latest first", Failures, failures),),
            query=Conditions,
        ),
        Operation(
            "GET", "/v1/dead", "listDeadLetters", "Messages that never became a run", Scope.READ,
            (Answer(200, "a page of dead letters", RunsResponse,
                    {**_PAGE, "runs": [{**_SUMMARY, "flow": None, "state": "dead"}]}),),
            _SEARCH, DeadQuery,
        ),
        Operation(
            "GET", "/v1/minutes", "listMinutes", "How many runs were accepted and ended",
            Scope.READ, (Answer(200, "the data of charts", MinutesResponse, minutes),),
            "Minutes are kept for two days, and hours for a year.", MinutesQuery,
        ),
    ]  # fmt: skip


def _about_the_node() -> list[Operation]:
    flow: dict[str, Any] = {"id": "1", "title": "", "steps": [], "line": 1, "durable": "accept"}
    status = {
        "node": "3", "journal": "up", "version": "1.0.0", "pid": 4711, "started_ms": 1790000000000,
        "now_ms": 1790000900000, "paused": False, "draining": False, "open_runs": {"running": 2},
        "in_flight": 2, "waiting": 0, "oldest_waiting_ms": None,
        "flows": [{"flow": "1", "waiting": 0, "in_flight": 2, "waiting_for_limit": 0,
                   "paused_by": None}],
        "components": [], "checks": [["journal", True, "writable"]],
    }  # fmt: skip
    component: dict[str, Any] = {
        "component": "component7", "idempotent": True, "rule": {"limit": 4}, "endpoints": ["1"],
        "now": {},
    }  # fmt: skip
    node = {"node": "2", "url": "http://10.1.0.2:5000/startrm", "peer": "fractal", "rule": None}
    config = {
        "digest": "0f3a51c2", "on_disk": None, "is_in_force": False, "folder": "/etc/fractal",
        "findings": [{"file": "flows.conf", "line": 12, "column": 6, "code": "F104",
                      "level": "error", "text": "there is no component compnent7"}],
    }  # fmt: skip
    return [
        Operation(
            "GET", "/v1/flows", "listFlows", "The flows of the configuration in force", Scope.READ,
            (Answer(200, "the flows", list[Flow], [flow], headers=_ETAG), _NOT_MODIFIED),
            headers=_IF_NONE_MATCH,
        ),
        Operation(
            "GET", "/v1/flows/{flow_id}", "showFlow", "One flow", Scope.READ,
            (Answer(200, "the flow", Flow, flow, headers=_ETAG), _NOT_MODIFIED),
            problems=(404,), headers=_IF_NONE_MATCH,
        ),
        Operation(
            "GET", "/v1/status", "showStatus", "What each process of this node does", Scope.READ,
            (Answer(200, "the processes", Statuses, {"processes": [status], "silent": []}),),
        ),
        Operation(
            "GET", "/v1/components", "listComponents", "Components, and their calls now",
            Scope.READ,
            (Answer(200, "the components", ComponentsResponse, {"components": [component]}),),
        ),
        Operation(
            "GET", "/v1/nodes", "listNodes", "The nodes in nodes.conf", Scope.READ,
            (Answer(200, "the nodes", NodesResponse, {"own": "1", "nodes": [node]}),),
        ),
        Operation(
            "GET", "/v1/config", "showConfig", "The configuration in force, and on the disk",
            Scope.READ, (Answer(200, "both", ConfigView, config, headers=_ETAG), _NOT_MODIFIED),
            headers=_IF_NONE_MATCH,
        ),
        Operation(
            "GET", "/v1/events", "listen", "What changes, as Server-Sent Events", Scope.READ,
            (Answer(200, "a stream that does not end", str, _EVENTS, "text/event-stream"),),
            "At most one message a second for each topic. At most 16 streams are open at once.",
            EventsQuery,
            headers={"Last-Event-ID": "the id of the last event that the client has"},
        ),
        Operation(
            "GET", "/v1/bulk", "listBulks", "The actions on many runs of this process", Scope.READ,
            (Answer(200, "the newest first", BulksResponse, {"bulks": [BULK]}),),
        ),
        Operation(
            "GET", "/v1/bulk/{bulk_id}", "showBulk", "How far an action on many runs is",
            Scope.READ, (Answer(200, "its progress", BulkResponse, BULK),), problems=(404,),
        ),
    ]  # fmt: skip
