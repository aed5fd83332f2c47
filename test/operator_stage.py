"""A REST service without a node: operators act on runs in memory, over real sockets."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from engine_stage import QuietTelemetry, config
from fractal_rm.adapters.access import BrowserSessions, Tokens
from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.local_socket.other_processes import OtherProcesses
from fractal_rm.adapters.memory import MemoryActions
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.read.definitions import recorded_flow
from fractal_rm.config.model import Rest
from fractal_rm.config.token_file import TokenFile
from fractal_rm.domain.access import Scope
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.log_level import check_level
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.state import State
from fractal_rm.domain.tokens import Token, digest_of
from fractal_rm.engine.observers import Observers
from fractal_rm.engine.ports import Counting
from fractal_rm.web import RestService
from fractal_rm.web.bulks import Bulks
from fractal_rm.web.config_check import ConfigCheck
from fractal_rm.web.late_operator import LateOperator
from fractal_rm.web.live import LiveEvents
from fractal_rm.web.operator import Operator
from fractal_rm.web.processes import Processes
from fractal_rm.web.stories import Stories
from ports import free_port

HOST = "127.0.0.1"
OPEN = {state: f"{number:026d}" for number, state in enumerate(State, 100)}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


async def idle_status() -> NodeStatus:
    return NodeStatus(
        node="1", journal="api", version="1", pid=1, started_ms=0, now_ms=0, paused=False,
        draining=False, open_runs={}, in_flight=0, waiting=0, oldest_waiting_ms=None, flows=[],
        components=[], checks=[],
    )  # fmt: skip


class NoRuns:
    """An intake without open runs."""

    status = staticmethod(idle_status)

    def resolve(self, *_: object) -> bool:
        return False

    def state_of(self, _: str) -> None:
        return None


class OperatorStage:
    """The service, in a thread with an event loop. There is one run in each state (`OPEN`).

    ``flows``: those of flows.conf, if a test needs other ones.
    """

    def __init__(self, state: Path, flows: dict[str, Flow] | None = None, **rest: Any) -> None:
        self.port = free_port()
        file = TokenFile(state)
        with file.changing() as tokens:
            tokens += [Token(each.value, digest_of(each.value), [each], 0) for each in Scope]
        self.telemetry = QuietTelemetry()
        self.actions = MemoryActions(
            {run: state for state, run in OPEN.items()}, {"1": False, "2": False}
        )
        self.observers = Observers((), self.telemetry)
        self.loop = asyncio.new_event_loop()
        clock = SystemClock()
        in_force = config if flows is None else partial(config, flows=flows)
        self.counting = Counting()
        self.live = LiveEvents(
            self.observers, self.counting, idle_status, clock, self.telemetry, "b007",
            gather_s=0.02,
        )  # fmt: skip
        self.bulks = Bulks(
            self.actions, self.telemetry, iter("123456789abcdefghijk").__next__, clock.now_ms
        )
        operator = Operator(
            self.live,
            Processes(idle_status, self.set_log_level, OtherProcesses(list)),
            ConfigCheck(in_force, {}, clock.now_ms),
            Stories(partial(recorded_flow, state), in_force, clock),
            self.actions,
            self.bulks,
        )
        tokens_of_node = Tokens(file, clock.now_ms, self.telemetry, None)
        self.url = f"http://{HOST}:{self.port}/"
        self.service = RestService(
            Rest(port=self.port, **rest),
            intake=NoRuns(),
            history=SqliteHistory(state),
            flows=lambda: {"1": Flow("1"), "2": Flow("2")},
            names=frozenset,
            max_trigger_bytes=lambda: 1_000,
            clock=clock,
            telemetry=self.telemetry,
            authenticator=tokens_of_node,
            node_ids=dict,
            store_draining=lambda _: None,
            operator=LateOperator(lambda: operator),
            sessions=BrowserSessions(tokens_of_node, state, clock.now_ms, self.telemetry),
        )

    def set_log_level(self, level: str) -> str:
        check_level(level)
        self.level = level
        return level

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine in the loop of the service, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = "operate",
        **headers: str,
    ) -> Answer:
        """Send a request to the API. The text of a token is the name of its scope.

        ``body`` is encoded as JSON, unless it is bytes."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if content is not None:
            fields.setdefault("Content-Type", "application/json")
        if token is not None:
            fields["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection(HOST, self.port, timeout=20)
        try:
            connection.request(method, path, content, fields)
            response = connection.getresponse()
            text = response.read()
            names = {name.lower(): value for name, value in response.getheaders()}
            is_json = "json" in names.get("content-type", "") and text
            return Answer(response.status, names, json.loads(text) if is_json else text)
        finally:
            connection.close()


@contextmanager
def operator_stage(state: Path, flows: dict[str, Flow] | None = None, **rest: Any):
    """Start the service, and stop it at the end. ``rest`` has settings of the section ``rest``."""
    stage = OperatorStage(state, flows, **rest)
    thread = threading.Thread(target=stage.loop.run_forever)
    thread.start()
    try:
        stage.call(stage.service.start())
        yield stage
        stage.call(stage.service.stop())
    finally:
        stage.loop.call_soon_threadsafe(stage.loop.stop)
        thread.join()
        stage.loop.close()
