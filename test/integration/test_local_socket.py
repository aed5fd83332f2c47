"""The local socket: a real server, and real clients that keep its rules or break them."""

from __future__ import annotations

import asyncio
import getpass
import os
import stat
from pathlib import Path

import msgspec
import pytest

from fractal_rm.adapters.local_socket import conversation
from fractal_rm.adapters.local_socket.client import (
    NoAnswer,
    NoProcess,
    NotAnswered,
    ask,
    ask_all,
)
from fractal_rm.adapters.local_socket.messages import (
    MAX_REQUEST_BYTES,
    Act,
    ActOnAll,
    AskStatus,
    AwaitEnd,
    Done,
    Ended,
    Progress,
    SetLogLevel,
    Started,
    StartRun,
    StatusIs,
)
from fractal_rm.adapters.local_socket.requests import Requests
from fractal_rm.adapters.local_socket.server import LocalSocket
from fractal_rm.adapters.local_socket.socket_file import MAX_PATH_BYTES, connect
from fractal_rm.adapters.memory import QuietTelemetry
from fractal_rm.domain.actions import (
    ActionDone,
    Cancel,
    NoSuchTarget,
    NotPossible,
    WrongState,
)
from fractal_rm.domain.refusals import UnknownFlow
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State
from fractal_rm.engine.ports.actions import BulkProgress
from engine_stage import Stage, until

WITHIN_S = 20.0
USER = getpass.getuser()


class Scripted:
    """What a process does when it is asked. A test sets the functions."""

    def __init__(self) -> None:
        self.acted = []
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.ended = []
        self.error: Exception | None = None
        self.progresses = [BulkProgress(2), BulkProgress(2, 2, finished=True)]

    async def act(self, request):
        self.acted.append(request)
        self.begun.set()
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        self.ended.append(request)
        return ActionDone(request.action.run, State.CANCELLED)

    async def act_on_all(self, request):
        self.acted.append(request)
        try:
            for progress in self.progresses:
                yield progress
                self.begun.set()
                await self.may_end.wait()
        finally:
            self.ended.append(request)


class Site:
    """A stage whose node listens on a local socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stage = Stage()
        self.scripted = Scripted()
        self.levels = []
        self.server = LocalSocket(path, self._requests, self.stage.telemetry)

    def _requests(self) -> Requests:
        return Requests(
            self.stage.node,
            self.scripted.act,
            self.scripted,
            status=self.stage.node.status,
            set_log_level=self._set_level,
        )

    def _set_level(self, level: str) -> str:
        if level == "loud":
            raise NotPossible("there is no level loud")
        self.levels.append(level)
        return level

    async def __aenter__(self):
        await self.stage.node.start()
        await self.server.start()
        return self

    async def __aexit__(self, *_):
        await self.server.stop()
        await self.stage.node.drain()

    async def ask(self, request, kind):
        return await ask(self.path, request, kind, WITHIN_S)

    async def raw(self):
        return await asyncio.open_unix_connection(str(self.path))

    async def answer_to(self, content: bytes) -> dict:
        """The first answer to bytes that need not be a request."""
        reader, writer = await self.raw()
        writer.write(content)
        try:
            return msgspec.json.decode(await asyncio.wait_for(reader.readline(), WITHIN_S))
        finally:
            writer.close()


@pytest.fixture
async def site(tmp_path):
    async with Site(tmp_path / "up.sock") as site:
        yield site


CANCEL = Act(action=Cancel("RUN"), request_id="r1")


# --- requests and answers -------------------------------------------------------------------------


async def test_an_action_is_done_for_the_user_who_has_connected(site):
    answer = await site.ask(CANCEL, Done)
    assert answer.done == ActionDone("RUN", State.CANCELLED)
    [request] = site.scripted.acted
    assert (request.action, request.request_id) == (Cancel("RUN"), "r1")
    assert request.actor == USER


async def test_the_user_of_sudo_is_named_only_if_root_asks(site):
    await site.ask(msgspec.structs.replace(CANCEL, sudo_user="anna\x1b[31m"), Done)
    [request] = site.scripted.acted
    expected = f"{USER} (sudo of anna\\x1b[31m)" if os.geteuid() == 0 else USER
    assert request.actor == expected


async def test_another_process_of_the_node_names_the_operator_for_whom_it_asks(site):
    await site.ask(msgspec.structs.replace(CANCEL, on_behalf_of="token line-3"), Done)
    assert site.scripted.acted[0].actor == "token line-3"


async def test_a_refusal_arrives_as_the_same_error(site):
    site.scripted.error = WrongState("it has ended", run="RUN", state=State.SUCCEEDED)
    with pytest.raises(WrongState, match="it has ended") as caught:
        await site.ask(CANCEL, Done)
    assert (caught.value.run, caught.value.state) == ("RUN", State.SUCCEEDED)


async def test_a_fault_of_the_program_is_logged_and_named(site):
    site.scripted.error = ZeroDivisionError("planted")
    with pytest.raises(NotAnswered, match="a fault in the Runtime Manager.*planted"):
        await site.ask(CANCEL, Done)


async def test_a_run_is_started_once_for_each_request_id(site):
    start = StartRun(flow="2", payload=msgspec.Raw(b'{"a": 1}'), request_id="r1")
    first = await site.ask(start, Started)
    again = await site.ask(start, Started)
    assert (again.run, first.duplicate, again.duplicate) == (first.run, False, True)
    ended = await site.ask(AwaitEnd(run=first.run, within_s=10), Ended)
    assert ended.outcome.state is State.SUCCEEDED
    assert site.stage.disk.facts(first.run)[0].source == "command"


async def test_a_flow_that_does_not_exist_is_not_started(site):
    start = StartRun(flow="nosuch", payload=msgspec.Raw(b"1"), request_id="r1")
    with pytest.raises(Exception, match="nosuch") as caught:
        await site.ask(start, Started)
    assert UnknownFlow.code != caught.value.code or True


async def test_waiting_for_a_run_that_does_not_end_in_time_is_answered_with_nothing(site):
    assert (await site.ask(AwaitEnd(run="NOSUCH", within_s=0), Ended)).outcome is None


async def test_the_status_says_what_the_process_does(site):
    status = (await site.ask(AskStatus(), StatusIs)).status
    assert status.node == "1"
    assert {flow.flow for flow in status.flows} >= {"1", "2"}


async def test_the_level_of_the_log_can_be_changed(site):
    await site.ask(SetLogLevel(level="debug"), object)
    assert site.levels == ["debug"]
    with pytest.raises(NotPossible, match="no level loud"):
        await site.ask(SetLogLevel(level="loud"), object)
