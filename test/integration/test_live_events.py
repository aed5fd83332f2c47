"""Live events: what changes, as Server-Sent Events, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import pytest

from fractal_rm.domain.facts import Accepted, Dead, Settled
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Counting
from fractal_rm.web.live import LiveEvents, stream_text
from fractal_rm.web.live.events import MAX_STREAMS
from fractal_rm.web.live.gathering import MAX_SHOWN
from fractal_rm.web.live.ring import SIZE, Ring
from fractal_rm.web.live.topic import Topic
from operator_stage import HOST, operator_stage


class Message(NamedTuple):
    event: str
    id: str | None
    data: object


class Listener:
    """A client that listens. ``head`` is the head of the response, without its first line."""

    def __init__(self, port: int, query: str = "", last_id: str | None = None) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=20)
        lines = [f"GET /v1/events{query} HTTP/1.1", "Host: localhost", "Authorization: Bearer read"]
        lines += [f"Last-Event-ID: {last_id}"] if last_id is not None else []
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._file = self.socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        self.head = {}
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            self.head[name.lower()] = value
        self._pending = ""

    def text(self) -> str:
        """The next chunk of the response; empty at the end."""
        size = int(self._file.readline(), 16)
        text = self._file.read(size).decode()
        self._file.readline()
        return text

    def message(self) -> Message:
        """The next message. Comments are skipped."""
        while True:
            while "\n\n" not in self._pending:
                self._pending += self.text()
            text, _, self._pending = self._pending.partition("\n\n")
            fields = dict(line.split(": ", 1) for line in text.split("\n"))
            if "event" in fields:
                return Message(fields["event"], fields.get("id"), json.loads(fields["data"]))

    def is_ended(self) -> bool:
        return self.text() == "" and self._file.read() in (b"", b"\r\n")

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture
def stage(tmp_path):
    with operator_stage(tmp_path) as stage:
        yield stage


@contextmanager
def listening(stage, *arguments: str):
    listener = Listener(stage.port, *arguments)
    yield listener
    listener.close()


def run_in(state: State, number: int = 1, flow: str = "1") -> Run:
    return Run(f"{number:026d}", Flow(flow), 1_000, state=state, reason="a\u2028b" * 200)


def settle(counting: Counting, run: Run) -> None:
    """Tell those who count that a run has ended."""
    for count in counting.facts:
        count([(run, (5_000, Settled(run.state)))])


def notify(stage, *runs: Run) -> None:
    """Write facts about runs. All of them are gathered into one message."""

    async def write() -> None:
        for run in runs:
            if run.state is State.DEAD:
                stage.observers.notify(run, Dead("", ""), 5_000)
            elif run.state.final:
                settle(stage.counting, run)
            else:
                fact = Accepted("1", "", msgspec.Raw(b"1"), "mqtt")
                stage.observers.notify(run, fact, 5_000)

    stage.call(write())


def test_a_run_that_changes_is_told_to_those_who_listen(stage):
    with listening(stage) as listener:
        assert listener.status == 200
        assert listener.head["content-type"].startswith("text/event-stream")
        assert listener.head["x-accel-buffering"] == "no"
        assert listener.head["cache-control"] == "no-store"
        assert listener.message().event == "open"
        assert listener.message().event == "node"
        notify(stage, run_in(State.ACCEPTED), run_in(State.SUCCEEDED), run_in(State.FAILED, 2))
        messages = [listener.message() for _ in range(3)]
    assert [message.event for message in messages] == ["runs", "failures", "flows"]
    runs, failures, flows = (message.data for message in messages)
    assert {run["run"]: run["state"] for run in runs} == {
        f"{1:026d}": "succeeded", f"{2:026d}": "failed",
    }  # fmt: skip
    assert [run["state"] for run in failures] == ["failed"]
    assert len(failures[0]["reason"]) == 200
    (flow,) = flows
    assert (flow["flow"], flow["accepted"], flow["ended"]) == (
        "1", 1, {"succeeded": 1, "failed": 1},
    )  # fmt: skip
    assert messages[2].id.startswith("b007-")


def test_a_stream_has_only_the_topics_that_it_asks_for(stage):
    with listening(stage, "?topics=failures") as listener:
        assert listener.message().event == "open"
        notify(stage, run_in(State.SUCCEEDED), run_in(State.DEAD, 2, ""))
        assert [run["flow"] for run in listener.message().data] == [None]


@pytest.mark.parametrize(
    "query", ["?topics=weather", "?topics=", "?topic=runs", "?topics=runs,runs"]
)
def test_a_topic_that_does_not_exist_is_400(stage, query):
    assert stage.ask("GET", f"/v1/events?{query}", token="read").status == 400


def test_a_client_that_connects_again_misses_nothing(stage):
    with listening(stage, "?topics=runs") as listener:
        listener.message()
        notify(stage, run_in(State.SUCCEEDED, 1))
        last_id = listener.message().id
    with listening(stage, "?topics=runs") as other:
        other.message()
        notify(stage, run_in(State.SUCCEEDED, 2))
        other.message()
    with listening(stage, "?topics=runs", last_id) as listener:
        assert listener.message().event == "open"
        assert [run["run"] for run in listener.message().data] == [f"{2:026d}"]


@pytest.mark.parametrize(
    "last_id",
    ["b007-9999", "0000-1", "b007-", "b007--1", "1", "\u0661", "b007-" + "9" * 400, "x\0y"],
)
def test_an_id_that_is_not_known_is_answered_with_reset(stage, last_id):
    listener = Listener(stage.port, "?topics=runs", last_id.encode("utf-8").decode("latin-1"))
    if listener.status == 400:  # a control character: not valid HTTP
        assert "\0" in last_id
    else:
        assert listener.message().event == "reset"
    listener.close()


def test_the_seventeenth_stream_is_told_to_come_again_later(stage):
    listeners = [Listener(stage.port) for _ in range(MAX_STREAMS)]
    for listener in listeners:
        assert listener.message().event == "open"
    answer = stage.ask("GET", "/v1/events", token="read")
    assert (answer.status, answer.body["type"]) == (503, "urn:fractal-rm:too-many-streams")
    assert int(answer.headers["retry-after"]) >= 1
    listeners[0].close()
    stage.call(until(lambda: stage.live.open_streams < MAX_STREAMS))
    with listening(stage) as listener:
        assert listener.message().event == "open"
    for listener in listeners[1:]:
        listener.close()


async def until(is_true) -> None:
    while not is_true():
        await asyncio.sleep(0.001)


def test_a_head_request_opens_no_stream(stage):
    answer = stage.ask("HEAD", "/v1/events", token="read")
    assert (answer.status, answer.body) == (200, b"")
    assert stage.live.open_streams == 0


def test_a_stream_says_goodbye_when_the_node_stops_and_ends_at_once(stage):
    with listening(stage, "?topics=runs") as listener:
        assert listener.message().event == "open"
        stage.call(stage.service.stop())
        assert listener.message().event == "bye"
        assert listener.is_ended()


def test_a_token_needs_the_scope_read(stage):
    assert stage.ask("GET", "/v1/events", token="trigger").status == 403


# --- without sockets ------------------------------------------------------------------------------


@pytest.fixture
async def live(tmp_path):
    from engine_stage import QuietTelemetry
    from fractal_rm.adapters.clock import SystemClock
    from fractal_rm.engine.observers import Observers
    from operator_stage import idle_status

    telemetry = QuietTelemetry()
    observers = Observers((), telemetry)
    counting = Counting()
    live = LiveEvents(
        observers, counting, idle_status, SystemClock(), telemetry, "b007", gather_s=0.001,
        keep_s=0.002,
    )  # fmt: skip
    live.observers, live.counting, live.telemetry = observers, counting, telemetry
    yield live
    await live.stop()


RUNS = frozenset({Topic.RUNS})


def is_observing(live) -> bool:
    return bool(live.counting.facts or [*live.observers.kinds])


async def next_message(stream) -> bytes:
    """The next message that is not a comment."""
    async for text in stream:
        if not text.startswith(b":"):
            return text
    return b""


async def test_nothing_is_observed_unless_somebody_listens(live):
    assert not is_observing(live)
    news = live.open(RUNS)
    stream = stream_text(live, RUNS, news, None)
    assert b"event: open" in await next_message(stream)
    assert Accepted in live.observers.kinds
    assert len(live.counting.facts) == 1
    await stream.aclose()
    await until(lambda: not is_observing(live))


async def test_a_fault_while_facts_are_gathered_ends_the_streams_and_not_the_journal(live):
    stream = stream_text(live, RUNS, live.open(RUNS), None)
    await next_message(stream)
    for count in live.counting.facts:
        count([(None, (5_000, Settled(State.SUCCEEDED)))])  # there is no run
    assert b"event: bye" in await next_message(stream)
    assert live.telemetry.events == ["live_events_failed"]
    await until(lambda: not is_observing(live))
    assert b"event: open" in await next_message(stream_text(live, RUNS, live.open(RUNS), None))
    assert is_observing(live)


async def test_after_a_time_without_listeners_an_earlier_id_is_not_known(live):
    stream = stream_text(live, RUNS, live.open(RUNS), None)
    last_id = (await next_message(stream)).split(b"id: ")[1].split(b"\n")[0].decode()
    await stream.aclose()
    await until(lambda: not is_observing(live))
    stream = stream_text(live, RUNS, live.open(RUNS), last_id)
    assert b"event: reset" in await next_message(stream)
    await stream.aclose()


async def test_a_reader_that_is_too_slow_is_told_to_read_again_and_fills_no_memory(live):
    stream = stream_text(live, RUNS, live.open(RUNS), None)
    await next_message(stream)  # and then it does not read for a while
    first = live.ring.last
    while live.ring.last < first + SIZE + 10:
        for number in range(MAX_SHOWN):
            settle(live.counting, run_in(State.SUCCEEDED, number))
        last = live.ring.last
        await until(lambda last=last: live.ring.last > last)
    assert len(live.ring.after(0)) == SIZE
    assert b"event: reset" in await next_message(stream)
    await stream.aclose()


async def test_many_runs_are_counted_and_do_not_hide_those_in_trouble(live):
    topics = frozenset({Topic.RUNS, Topic.FAILURES})
    stream = stream_text(live, topics, live.open(topics), None)
    await next_message(stream)
    await until(lambda: is_observing(live))
    for number in range(MAX_SHOWN + 50):
        settle(live.counting, run_in(State.SUCCEEDED, number))
    settle(live.counting, run_in(State.FAILED, 9_999))
    text = await next_message(stream)
    runs, failures = (
        json.loads(line.removeprefix("data: "))
        for line in text.decode().split("\n")
        if line.startswith("data: ")
    )
    assert len(runs) == MAX_SHOWN + 2
    assert {"hidden": 50} in runs
    assert [run["run"] for run in failures] == [f"{9_999:026d}"]
    await stream.aclose()


async def test_a_silent_stream_has_heartbeats_and_ends_after_its_time(live):
    news = live.open(frozenset())
    stream = stream_text(live, frozenset(), news, None, heartbeat_s=0.0)
    await anext(stream)
    texts = set()
    while b": alive\n\n" not in texts:
        texts.add(await anext(stream))
    await stream.aclose()
    stream = stream_text(live, RUNS, live.open(RUNS), None, max_stream_s=0.0)
    assert [text async for text in stream][1:] == []  # a client connects again, with its token
    assert live.open_streams == 0


async def test_a_stream_whose_client_went_away_before_it_began_is_not_counted(live):
    news = live.open(RUNS)
    stream = stream_text(live, RUNS, news, None)
    assert live.open_streams == 1
    del stream, news
    assert live.open_streams == 0


def test_a_ring_knows_which_ids_it_can_continue():
    ring = Ring("b007")
    for _ in range(SIZE + 5):
        ring.add((Topic.RUNS,), b"1")
    assert ring.number_of("b007-4") is None
    assert ring.number_of("b007-5") == 5
    assert len(ring.after(5)) == SIZE
    assert ring.number_of(f"b007-{SIZE + 5}") == SIZE + 5
    assert ring.after(SIZE + 5) == []
    ring.clear()
    assert ring.number_of(f"b007-{SIZE + 5}") is None
