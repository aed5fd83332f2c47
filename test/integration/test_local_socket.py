"""The local socket: a real server, and real clients that keep its rules or break them."""

from __future__ import annotations

import asyncio
import getpass
import os
import stat
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from engine_stage import Stage, until
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
    LevelIs,
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
    ActionRefused,
    Cancel,
    NotPossible,
    WrongState,
)
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State
from fractal_rm.engine.ports.actions import BulkProgress

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

    async def act_here(self, request):
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
        return Requests(self.stage.node, self.scripted, set_log_level=self._set_level)

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
    with pytest.raises(NotAnswered, match="a fault in the Runtime Manager"):
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
    with pytest.raises(ActionRefused, match="nosuch"):
        await site.ask(start, Started)


async def test_waiting_for_a_run_that_does_not_end_in_time_is_answered_with_nothing(site):
    assert (await site.ask(AwaitEnd(run="NOSUCH", within_s=0), Ended)).outcome is None


async def test_the_status_says_what_the_process_does(site):
    status = (await site.ask(AskStatus(), StatusIs)).status
    assert status.node == "1"
    assert {flow.flow for flow in status.flows} >= {"1", "2"}


async def test_the_level_of_the_log_can_be_changed(site):
    await site.ask(SetLogLevel(level="debug"), LevelIs)
    assert site.levels == ["debug"]
    with pytest.raises(NotPossible, match="no level loud"):
        await site.ask(SetLogLevel(level="loud"), LevelIs)


# --- actions on many runs, and clients that go away -----------------------------------------------

ON_ALL = ActOnAll(action=Cancel(""), filter=RunFilter(flow="1"), expect=2, request_id="r1")


async def test_an_action_on_many_runs_tells_how_far_it_is(site):
    answers = [each async for each in ask_all(site.path, ON_ALL, WITHIN_S)]
    assert answers == [Progress(each) for each in site.scripted.progresses]
    [request] = site.scripted.acted
    assert (request.filter, request.expect, request.actor) == (ON_ALL.filter, 2, USER)


async def test_an_action_on_many_runs_stops_when_the_client_goes_away(site):
    site.scripted.may_end.clear()
    answers = ask_all(site.path, ON_ALL, WITHIN_S)
    await anext(answers)
    await answers.aclose()
    await until(lambda: site.scripted.ended)


async def test_an_action_is_completed_even_if_the_client_goes_away(site):
    site.scripted.may_end.clear()
    _, writer = await site.raw()
    writer.write(msgspec.json.encode(CANCEL) + b"\n")
    await asyncio.wait_for(site.scripted.begun.wait(), WITHIN_S)
    writer.transport.abort()
    await answer_of_a_new_connection(site)
    assert site.scripted.ended == []
    site.scripted.may_end.set()
    await until(lambda: site.scripted.ended)


async def answer_of_a_new_connection(site) -> None:
    assert (await site.ask(AskStatus(), StatusIs)).status.node == "1"


async def test_a_node_that_stops_completes_an_action_and_ends_the_other_connections(site):
    site.scripted.may_end.clear()
    asked = asyncio.ensure_future(site.ask(CANCEL, Done))
    waiting = asyncio.ensure_future(site.ask(AwaitEnd(run="x", within_s=60), Ended))
    silent, _ = await site.raw()
    await asyncio.wait_for(site.scripted.begun.wait(), WITHIN_S)
    stopped = asyncio.ensure_future(site.server.stop())
    await asyncio.sleep(0)
    site.scripted.may_end.set()
    await asyncio.wait_for(stopped, WITHIN_S)
    assert len(site.scripted.ended) == 1
    assert await silent.read() == b""
    _ = await asyncio.wait({asked, waiting})
    for each in (asked, waiting):
        _ = each.exception()
    assert not site.path.exists()
    with pytest.raises(NoProcess, match="no process listens"):
        await site.ask(CANCEL, Done)


# --- clients that break the rules -----------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET / HTTP/1.1",
        b"{}",
        b"[]",
        b'{"request":"nosuch"}',
        b'{"request":"act"}',
        b'{"request":"act","request_id":"x","action":{"action":"cancel","run":1}}',
        b'{"request":"act","request_id":"x","action":{"action":"cancel","run":"r","extra":1}}',
        b'{"request":"await-end","run":"x","within_s":1e999}',
        b'{"request":"await-end","run":"x","within_s":NaN}',
        b'{"request":"status","request":"status"}',
        b"\xff\xfe",
        b'{"request":"' + b"\xed\xa0\x80" + b'"}',
        b"[" * 100_000,
        b"\0" * 1_000_000,
        b'{"request":"status","x":"' + b"y" * 1_000_000,
    ],
    ids=range(16),
)  # fmt: skip
async def test_a_line_that_is_no_request_is_refused(site, line):
    answer = await site.answer_to(line + b"\n")
    assert answer["answer"] == "not-understood"
    assert "this process cannot read the request" in answer["reason"]
    await answer_of_a_new_connection(site)
    assert site.scripted.acted == []


async def test_a_request_with_too_many_bytes_is_refused(site):
    answer = await site.answer_to(b"x" * (MAX_REQUEST_BYTES + 1))
    assert answer["reason"] == "the request has too many bytes; 4 MiB are allowed"
    await answer_of_a_new_connection(site)


async def test_half_a_line_is_no_request(site):
    _, writer = await site.raw()
    writer.write(msgspec.json.encode(CANCEL))
    writer.close()
    await writer.wait_closed()
    await answer_of_a_new_connection(site)
    assert site.scripted.acted == []


async def test_a_client_that_sends_no_request_is_disconnected(site, monkeypatch):
    monkeypatch.setattr(conversation, "REQUEST_LIMIT_S", 0.05)
    answer = await site.answer_to(msgspec.json.encode(CANCEL))
    assert "no request within" in answer["reason"]
    assert site.scripted.acted == []


async def test_a_client_that_does_not_read_is_disconnected(site, monkeypatch):
    monkeypatch.setattr(conversation, "SEND_LIMIT_S", 0.05)
    text = "x" * 1_000_000
    site.scripted.progresses = [BulkProgress(1, last_refusal=text)] * 50
    _, writer = await site.raw()
    writer.write(msgspec.json.encode(ON_ALL) + b"\n")
    await until(lambda: site.scripted.ended, WITHIN_S)
    writer.close()


async def test_connections_that_send_nothing_do_not_keep_commands_out(site):
    silent = [connect(site.path) for _ in range(100)]
    await answer_of_a_new_connection(site)
    silent += [connect(site.path) for _ in range(100)]
    await answer_of_a_new_connection(site)
    for each in silent:
        each.close()


async def test_there_are_not_more_commands_at_the_same_time_than_allowed(site):
    site.scripted.may_end.clear()
    asked = [
        asyncio.ensure_future(site.ask(CANCEL, Done)) for _ in range(conversation.MAX_CONNECTIONS)
    ]
    await until(lambda: len(site.scripted.acted) == len(asked))
    with pytest.raises(NotAnswered, match="32 commands are being answered; repeat"):
        await site.ask(AskStatus(), StatusIs)
    site.scripted.may_end.set()
    assert len(await asyncio.gather(*asked)) == len(asked)
    await answer_of_a_new_connection(site)


async def test_a_thousand_commands_at_the_same_time_are_done_or_refused(site):
    async def try_to_cancel() -> str:
        try:
            return (await site.ask(CANCEL, Done)).done.state.value
        except (NotAnswered, NoAnswer) as error:
            return type(error).__name__

    results = await asyncio.gather(*(try_to_cancel() for _ in range(1000)))
    assert results.count("cancelled") >= 1
    assert results.count("cancelled") <= len(site.scripted.acted)
    await answer_of_a_new_connection(site)


# --- the file -------------------------------------------------------------------------------------


async def test_only_the_user_of_the_node_may_connect(site):
    status = site.path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_uid == site.path.parent.stat().st_uid


async def test_the_socket_of_a_killed_process_is_replaced(tmp_path):
    path = tmp_path / "up.sock"
    async with Site(path) as killed:
        killed.server.kill()
        assert path.exists()
        with pytest.raises(NoProcess):
            await killed.ask(AskStatus(), StatusIs)
    async with Site(path) as site:
        await answer_of_a_new_connection(site)


async def test_a_path_of_any_length_is_possible(tmp_path):
    folder = tmp_path / ("long" * 60)
    folder.mkdir()
    assert len(str(folder)) > MAX_PATH_BYTES
    async with Site(folder / "up.sock") as site:
        await answer_of_a_new_connection(site)
    assert list(folder.iterdir()) == []


async def test_a_deleted_socket_is_made_again(site, monkeypatch):
    monkeypatch.setattr("fractal_rm.adapters.local_socket.server.CHECK_S", 0.01)
    await site.server.stop()
    await site.server.start()
    site.path.unlink()
    await until(site.path.exists, WITHIN_S)
    await answer_of_a_new_connection(site)


class Log(QuietTelemetry):
    def __init__(self) -> None:
        self.problems = []

    def problem(self, name, **fields):
        self.problems.append((name, fields.get("why", "")))


async def test_without_a_socket_the_node_runs_and_the_log_says_why(tmp_path, monkeypatch):
    path = tmp_path / "up.sock"
    path.write_text("not a socket")
    site = Site(path)
    log = Log()
    monkeypatch.setattr("fractal_rm.adapters.local_socket.server.CHECK_S", 0.01)
    server = LocalSocket(path, site.server._make_requests, log)
    await server.start()
    [(name, why)] = log.problems
    assert name == "commands_not_received"
    assert f"{path} is not a socket; delete it" in why
    assert server.status().ok
    assert "is not a socket" in server.status().text
    assert path.read_text() == "not a socket"
    path.unlink()
    await until(path.exists, WITHIN_S)
    assert len(log.problems) == 1
    assert server.status().text == f"at {path}"
    await server.stop()


async def test_in_a_folder_without_write_permission_the_log_says_why(tmp_path):
    log = Log()
    server = LocalSocket(tmp_path / "missing" / "up.sock", lambda: None, log)
    await server.start()
    [(name, why)] = log.problems
    assert (name, "No such file or directory" in why) == ("commands_not_received", True)
    await server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_cannot_connect():
    program = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: socket.socket(socket.AF_UNIX).connect(sys.argv[1])\n"
        "except PermissionError: sys.exit(13)\n"
    )

    async def exit_code(path: Path) -> int:
        words = (sys.executable, "-c", program, str(path))
        return await (await asyncio.create_subprocess_exec(*words)).wait()

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # another user may enter it
        async with Site(Path(folder) / "up.sock") as site:
            assert await exit_code(site.path) == 13
            site.path.chmod(0o666)
            assert await exit_code(site.path) == 0
