"""The operations that act on runs, dead letters and flows."""

from __future__ import annotations

from typing import Any

from fractal_rm.domain.access import Scope
from fractal_rm.domain.actions import ActionDone
from fractal_rm.web.api.action_options import (
    CancelOptions,
    DiscardOptions,
    NoOptions,
    ReplayOptions,
    SendOptions,
)
from fractal_rm.web.api.bulk import BulkBody, BulkResponse
from fractal_rm.web.api.resolve import Resolution
from fractal_rm.web.api.status import LevelResponse
from fractal_rm.web.openapi.operation import Answer, Body, Operation
from fractal_rm.web.openapi.queries import BULK
from fractal_rm.web.openapi.triggers import RUN
from fractal_rm.web.problems import ActionProblem

_NEW_RUN = "01M872D0V4M4K8H2Q0Z7N5C3WE"
_PROBLEMS = (404, 409, 410, 412, 413, 415, 422, 429)
_KEY = "Idempotency-Key"
_HEADERS = {
    _KEY: "a second request with the same key does nothing, and gets the same answer",
    "If-Match": "act only if this is the `ETag` of the run or flow now",
}
_LOCATION = {"Location": "the new run, if there is one"}


def action_operations() -> list[Operation]:
    """The operations."""
    run, dead, flow = "/v1/runs/{run_id}", "/v1/dead/{run_id}", "/v1/flows/{flow_id}"
    repeated = {"run": RUN, "state": "failed", "new_run": _NEW_RUN}
    cancelled, discarded = {"run": RUN, "state": "cancelled"}, {"run": RUN, "state": "failed"}
    return [
        _operation(
            f"{run}/cancel", "cancelRun", "End an open run as cancelled",
            CancelOptions, {"cut": False, "undo": True}, cancelled,
            "A run that is executed may go on until its step in flight has ended: 202.",
        ),
        _operation(
            f"{run}/replay", "replayRun", "Repeat an ended run as a new run",
            ReplayOptions, {"definition": "current", "from_step": 2}, repeated,
        ),
        _operation(
            f"{run}/release", "releaseRun", "Resume a parked run",
            NoOptions, {}, {"run": RUN, "state": "accepted"},
        ),
        _operation(
            f"{run}/resolve", "resolveRun", "Decide a run or a step in doubt",
            Resolution, {"done": True, "result": "ok"}, repeated,
            "`decision` is for a run that another node may have, and `done` for a step.",
            required=True,
        ),
        _operation(
            f"{run}/discard", "discardRun", "Mark an ended run: it needs no more attention",
            DiscardOptions, {"note": "a test"}, discarded,
        ),
        _operation(
            f"{dead}/discard", "discardDeadLetter",
            "Mark a dead letter: it needs no more attention",
            DiscardOptions, {"note": "a test"}, {"run": RUN, "state": "dead"},
        ),
        _operation(
            f"{dead}/send", "sendDeadLetter", "Send a dead letter again, as it was or edited",
            SendOptions, {"body": '{"id_flow": "1", "is_load_balancing": false, "payload": 1}'},
            {"run": RUN, "state": "dead", "new_run": _NEW_RUN},
        ),
        _operation(
            f"{flow}/pause", "pauseFlow", "Begin no more runs of a flow",
            NoOptions, {}, {"flow": "12"},
        ),
        _operation(
            f"{flow}/resume", "resumeFlow", "End the pause of a flow",
            NoOptions, {}, {"flow": "12"},
        ),
        Operation(
            "POST", "/v1/bulk", "startBulk", "Act on all runs that match a filter", Scope.OPERATE,
            (Answer(202, "it has begun", BulkResponse, BULK,
                    headers={"Location": "its progress"}),),
            "`expect` is the number of runs that the operator has seen. If the number has changed"
            " by more than a tenth, nothing is done: 409. An empty filter is refused: 422.",
            body=Body(BulkBody, {"action": "replay", "filter": {"flow": "12", "state": ["failed"]},
                                 "expect": 3412, "definition": "current"}),
            problems=(409, 413, 415, 422, 429), headers={_KEY: _HEADERS[_KEY]},
            problem_kind=ActionProblem,
        ),
        Operation(
            "DELETE", "/v1/bulk/{bulk_id}", "stopBulk", "Stop an action on many runs",
            Scope.OPERATE,
            (Answer(200, "it has stopped", BulkResponse, {**BULK, "state": "stopped"}),),
            "The run that is being handled is finished first.", problems=(404,),
        ),
        Operation(
            "PUT", "/v1/log-level", "setLogLevel", "Change the level of the log", Scope.ADMIN,
            (Answer(200, "the level of the log", LevelResponse,
                    {"level": "debug", "silent": []}),),
            "The levels are `debug`, `info` and `warning`. Until a restart, or until `log.level` is"
            " changed. It applies to all processes of the node; `silent` names those that do not"
            " answer.",
            body=Body(str, "debug"), problems=(413, 415, 422),
        ),
    ]  # fmt: skip


def _operation(
    path: str,
    name: str,
    summary: str,
    options: Any,
    example: Any,
    done: Any,
    text: str = "",
    *,
    required: bool = False,
) -> Operation:
    return Operation(
        "POST", path, name, summary, Scope.OPERATE,
        (Answer(200, "it is done", ActionDone, done),
         Answer(202, "it is done, and a run goes on", ActionDone, done, headers=_LOCATION)),
        text, body=Body(options, example, required=required), problems=_PROBLEMS,
        headers=_HEADERS, problem_kind=ActionProblem,
    )  # fmt: skip
