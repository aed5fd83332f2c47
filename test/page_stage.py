"""A node for tests of the pages and for their pictures: real, with a broker and a past.

A packing line: a camera, a detector, a store and an actuator; a balancer; a second node. `STORIES`
are the states in which people meet a node. What a story writes is the same each time.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from brokers import Broker
from components import Components
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import StepUndone
from fractal_rm.domain.state import State
from nodes import HOST, NodeProcess, wait_until
from past_runs import (
    Story,
    begun,
    done,
    failed,
    parked,
    placed,
    refused,
    step_done,
    step_failed,
    write_past,
)
from ports import free_port

MINUTE_MS = 60_000
DAY_MINUTES = 1_440
FLOWS = """\
1 inspect a part
DEADLINE 10s
TO camera frame
GET
  AS shot
TO detector detect
POST JSON {"frame": shot.frame}
  TIMEOUT 1s
  RETRY 1 EVERY 100ms
  AS found
TO actuator move
POST JSON {"objects": found.objects}
  WHEN found.objects > 0

2 record the temperature
TO camera frame
GET
  AS shot
TO store records
POST JSON {"celsius": shot.temperature, "line": payload.line}

3 sort a part out
LIMIT 2
TO store reservations
POST JSON {"part": payload.part}
  AS place
  UNDO reservations place
TO actuator move
POST JSON {"to": place.id}

4 report the night
CRON "0 6 * * *" Europe/Rome
TO store records
GET
"""
HERE = placed("the balancer chose this node", Cause.BALANCER)
UNKNOWN_NODE = placed(
    "the balancer named node 4, which nodes.conf does not have", Cause.UNKNOWN_NODE, named="4"
)
TOO_SLOW = "no answer within the time limit"
NO_NUMBER = '{"error": "celsius must be a number"}'
Past = list[tuple[int, Story]]


class PageStage:
    """The node of a story, and what it talks to. ``url`` is the address of its pages."""

    def __init__(self, folder: Path, *, is_broken: bool = False) -> None:
        folder.mkdir(exist_ok=True)
        self.broker = Broker("mosquitto", folder).start()
        self.components = Components()
        self.held = threading.Event()
        self.bulk = ""  # the id of the last request on many runs
        self.components.answers.update({
            "/frame": (200, '{"frame": "f1", "temperature": 20.5}'),
            "/detect": (200, '{"objects": 2, "score": 0.93}'),
            "/records": _store_record,
            "/reservations": (200, '{"id": "bay 4"}'),
            "/LB/id_node": (200, '{"id_node": "4"}' if is_broken else '{"id_node": null}'),
        })  # fmt: skip
        self.node = node = NodeProcess(
            folder / "line-3",
            components=self.components.port,
            broker=self.broker.port,
            balancer=self.components.port,
        )
        self.url = f"http://{HOST}:{node.rest}/"
        node.edit("comm", node__id="line-3", mqtt__topic="line/3")
        endpoints = {
            "camera": {"frame": "frame"}, "detector": {"detect": "detect"},
            "store": {"records": "records", "reservations": "reservations"},
            "actuator": {"move": "move"},
        }  # fmt: skip
        target = {"protocol": "http", "ip": HOST, "port": self.components.port}
        node.write("components", {
            name: {"config": {**target, "timeout_s": 3_000 if name == "store" else 20,
                              "endpoints": endpoints[name]}}  # runs are held at the store

            for name in endpoints
        })  # fmt: skip
        peer = {"protocol": "http", "ip": HOST, "port": free_port(), "endpoint": "startrm"}
        node.write("nodes", {"line-4": {"id": "line-4", "config": peer}})
        flows = FLOWS.replace("temperature,", "temprature,") if is_broken else FLOWS
        (node.config / "flows.conf").write_text(flows)

    def token(self, *scopes: str, name: str = "anna") -> str:
        """Make a token. Without scopes, it may do everything."""
        names = scopes or ("read", "payload", "operate", "trigger", "admin")
        words = [word for scope in names for word in ("--scope", scope)]
        return self.node.command("token", "new", name, *words).stdout.strip()

    def hold_runs(self) -> None:
        """Start runs of flow 3: two wait for an answer of the store, three wait in the queue."""
        self.components.answers["/reservations"] = self._hold
        for part in range(5):
            self.node.trigger("3", {"part": part}, ask_balancer=True)
        wait_until(lambda: self._asked("/reservations") >= 2)

    def run_some(self) -> None:
        """Start a run of flows 1 and 2 that the components answer now, and wait for their ends."""
        for flow in ("1", "2"):
            self.node.trigger(flow, {"line": 3}, ask_balancer=True, Prefer="wait=30")

    def discard_refused(self) -> str:
        """Discard the failed runs of flow 3, as an operator does it. Returns the id of the request.

        Waits until it has finished.
        """
        conditions = {"flow": "3", "state": ["failed"]}
        body = {"action": "discard", "filter": conditions, "expect": 3}
        headers = {"Authorization": f"Bearer {self.token(name='night-shift')}",
                   "Content_Type": "application/json"}  # fmt: skip
        answer = self.node.request("POST", "/v1/bulk", json.dumps(body).encode(), **headers)
        path = f"/v1/bulk/{answer.body['id']}"
        wait_until(lambda: self.node.request("GET", path, **headers).body["state"] == "finished")
        return answer.body["id"]

    def _hold(self, *_: object) -> tuple[int, str]:
        self.held.wait()
        return 503, "the store was closed"

    def _asked(self, path: str) -> int:
        return sum(request.path == path for request in self.components.requests)

    def stop(self) -> None:
        """Stop the node, the components and the broker."""
        if self.node.process is not None:
            self.node.kill()
        self.held.set()
        self.components.stop()
        self.broker.stop()


def _store_record(_: object, body: bytes) -> tuple[int, str]:
    celsius = json.loads(body or b'{"celsius": 1}').get("celsius")
    return (201, '{"ok": true}') if isinstance(celsius, (int, float)) else (422, NO_NUMBER)


# --- what has happened before --------------------------------------------------------------------


def frame_text(part: int) -> str:
    return json.dumps({"frame": f"f{part}"})


def inspected(random: Random, part: int, place: object = HERE) -> Story:
    frame, found = 3 + 4 * random.random(), 60 + 80 * random.random() ** 3
    objects = random.randrange(1, 5)
    return Story("1", {"line": part % 4, "part": part}, [
        (1, place), (2, begun(1)),
        (2 + int(frame), step_done(1, frame, frame_text(part))),
        (3 + int(frame + found), step_done(2, found, json.dumps({"objects": objects}))),
        (9 + int(frame + found), step_done(3, 5.2, '{"moved": true}')),
        (9 + int(frame + found), done()),
    ])  # fmt: skip


def too_slow(random: Random, part: int) -> Story:
    reason = "step 2, detector detect"
    return Story("1", {"line": part % 4, "part": part}, [
        (1, HERE), (7, step_done(1, 4.8, frame_text(part))),
        (2_110 + random.randrange(9), step_failed(2, TOO_SLOW, Cause.TIMED_OUT, attempt=2)),
        (2_120, failed(reason, TOO_SLOW, Cause.TIMED_OUT)),
    ])  # fmt: skip


def recorded(random: Random, part: int, place: object = HERE) -> Story:
    took = 8 + 6 * random.random()
    return Story("2", {"line": part % 4}, [
        (1, place), (5, step_done(1, 3.9, '{"temperature": 20.5}')),
        (6 + int(took), step_done(2, took, '{"ok": true}', 201)), (6 + int(took), done()),
    ])  # fmt: skip


def not_a_number(part: int) -> Story:
    reason = f"status 422: {NO_NUMBER}"
    failure = step_failed(2, reason, Cause.STATUS, status=422, body=NO_NUMBER)
    return Story("2", {"line": part % 4}, [
        (1, HERE), (5, step_done(1, 3.9, '{"temperature": 20.5}')), (12, failure),
        (12, failed("step 2, store records", reason, Cause.STATUS)),
    ])  # fmt: skip


def refused_connection(part: int) -> Story:
    reason = "cannot connect: Connection refused"
    return Story("3", {"part": part}, [
        (1, HERE), (4, step_done(1, 2.1, '{"id": "bay 4"}')), (5, begun(2)),
        (6, step_failed(2, reason, Cause.CONNECT_FAILED)),
        (9, StepUndone(1, 200, 2.5)),
        (9, failed("step 2, actuator move", reason, Cause.CONNECT_FAILED)),
    ])  # fmt: skip


def nothing(_now_ms: int, _scale: float) -> Past:
    """The first day: no run has been accepted yet."""
    return []


def calm(now_ms: int, scale: float) -> Past:
    """A day with few runs, of which none has failed; the last was 12 minutes ago."""
    return list(_day(now_ms, 0.2 * scale, until=12))


def busy(now_ms: int, scale: float) -> Past:
    """A day with many runs, of which some have failed."""
    random = Random(5)
    slow = [(now_ms - random.randrange(DAY_MINUTES) * MINUTE_MS, too_slow(random, n))
            for n in range(7)]  # fmt: skip
    return [*_day(now_ms, 4 * scale), *slow]


def broken(now_ms: int, scale: float) -> Past:
    """For 40 minutes, the detector is too slow now and then, and flow 2 names a wrong field."""
    random = Random(3)
    past = list(_day(now_ms, 2 * scale, until=40))
    for minute in range(40, 0, -1):
        at_ms = now_ms - minute * MINUTE_MS
        past += [(at_ms + 9_000, inspected(random, minute, UNKNOWN_NODE)),
                 (at_ms + 21_000, not_a_number(minute))]  # fmt: skip
        if minute % 4 == 0:
            past.append((at_ms + 33_000, too_slow(random, minute)))
    lost = "the answer was lost in a crash"
    past += [
        *[(now_ms - 300 * MINUTE_MS + 400 * part, refused_connection(part)) for part in range(3)],
        (now_ms - 95 * MINUTE_MS, refused("malformed", "line 1 column 9: expecting ',' delimiter",
                                          b'{"id_flow" "1", "payload": {"part": 17}}')),
        (now_ms - 31 * MINUTE_MS, refused("unknown-flow", "flows.conf has no flow 7",
                                          b'{"id_flow": "7", "payload": {"part": 20}}')),
        (now_ms - 30 * MINUTE_MS, refused("unknown-flow", "flows.conf has no flow 7",
                                          b'{"id_flow": "7", "payload": {"part": 21}}')),
        (now_ms - 26 * MINUTE_MS, Story("3", {"part": 5}, [
            (1, HERE), (4, step_done(1, 2.1, '{"id": "bay 4"}')), (5, begun(2)),
            (9_000, step_failed(2, lost, Cause.ANSWER_LOST)),
            (9_001, failed("step 2, actuator move", lost, Cause.ANSWER_LOST, State.UNKNOWN)),
        ])),
        (now_ms - 25 * MINUTE_MS, Story("3", {"part": 6}, [
            (1, HERE), (900, parked("the run was 2 h old when the node started", Cause.OLD)),
        ])),
    ]  # fmt: skip
    return past


def _day(now_ms: int, per_minute: float, until: int = 0) -> Iterator[tuple[int, Story]]:
    """Good runs of the last 24 hours until so many minutes ago: more by day than by night."""
    random, part = Random(1), 0
    for minute in range(DAY_MINUTES, until, -1):
        at_ms = now_ms - minute * MINUTE_MS
        hour = at_ms // 3_600_000 % 24
        rate = per_minute * (1 if 6 <= hour < 22 else 0.3)
        for _ in range(int(rate + random.random())):
            part += 1
            make = recorded if random.random() < 0.3 else inspected
            yield at_ms + random.randrange(MINUTE_MS), make(random, part)


STORIES: dict[str, Callable[[int, float], Past]] = {
    "empty": nothing, "idle": calm, "busy": busy, "broken": broken,
}  # fmt: skip


@contextmanager
def page_stage(
    folder: Path, story: str, now_ms: int, *, scale: float = 0.02, holds: bool = True
) -> Iterator[PageStage]:
    """Start the node of a story. ``scale``: how many runs of the past there are, of all (1).

    With ``holds``, runs are in flight and waiting, if the story is busy or broken.
    """
    stage = PageStage(folder, is_broken=story == "broken")
    try:
        write_past(stage.node.folder, STORIES[story](now_ms, scale))
        stage.node.start()
        stage.node.wait_connected()
        if story in ("busy", "broken"):
            stage.run_some()
            if holds:
                stage.hold_runs()
        if story == "broken":
            stage.bulk = stage.discard_refused()
        yield stage
    finally:
        stage.stop()


@pytest.fixture(scope="session")
def broken_line(tmp_path_factory) -> Iterator[PageStage]:
    """A node in trouble, with runs in all states, for tests that only read."""
    with page_stage(tmp_path_factory.mktemp("broken"), "broken", _now_ms()) as stage:
        yield stage


@pytest.fixture(scope="session")
def empty_line(tmp_path_factory) -> Iterator[PageStage]:
    """A node on its first day, for tests that only read."""
    with page_stage(tmp_path_factory.mktemp("empty"), "empty", _now_ms()) as stage:
        yield stage


def _now_ms() -> int:
    return int(time.time() * 1000)
