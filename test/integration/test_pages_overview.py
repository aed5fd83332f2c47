"""The overview, the components and the nodes: what is wrong, since when, and where to look."""

from __future__ import annotations

import re
import socket
import sys
import time
from contextlib import ExitStack, closing

import msgspec
import pytest

import operator_stage as stages
from engine_stage import config
from fractal_rm.config.token_file import TokenFile
from fractal_rm.domain.access import Scope
from fractal_rm.domain.call import Origin
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Placed, Settled
from fractal_rm.domain.node_status import ComponentStatus, FlowStatus
from fractal_rm.domain.state import State
from fractal_rm.domain.tokens import Token, digest_of
from nodes import wait_until
from operator_stage import operator_stage
from visitors import shown_words
from written_runs import FLOW, WrittenRun, a_failure, a_success, accepted, run_id, write_runs

NOW_MS = int(time.time() * 1000)
MINUTE_MS = 60_000


@pytest.fixture(autouse=True)
def _now(monkeypatch):
    """Each test has its own time: pages count the last minutes, and a session takes long."""
    monkeypatch.setattr(sys.modules[__name__], "NOW_MS", int(time.time() * 1000))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Start the pages with runs: ``site(run, …, status={…})``."""
    with ExitStack() as stack:

        def start(*runs: WrittenRun, **status: object):
            idle_status = stages.idle_status

            async def now():
                return msgspec.structs.replace(await idle_status(), **status)

            monkeypatch.setattr(stages, "idle_status", now)
            monkeypatch.setattr(stages.NoRuns, "status", staticmethod(now))
            write_runs(tmp_path, runs)
            stage = stack.enter_context(operator_stage(tmp_path))
            stage.state = tmp_path
            return stage

        yield start


def page(stage, path: str = "/", token: str = "read", status: int = 200) -> str:
    answer = stage.ask("GET", path, token=token)
    assert answer.status == status, answer.body
    return answer.body.decode()


def page_with(stage, path: str, wanted: str) -> str:
    """A page, as soon as what is read in the background has arrived."""

    def shown() -> str | None:
        answer = stage.ask("GET", path, token="read")  # a cut search may know nothing yet: 404
        text = shown_words(answer.body.decode()) if answer.status == 200 else ""
        return text if wanted in text else None

    return wait_until(shown)


def test_a_failing_component_is_named_with_its_number_its_time_and_links(site):
    stage = site(*(a_failure(n, NOW_MS - (9 - n) * 10_000) for n in range(3)))
    with TokenFile(stage.state).changing() as tokens:
        tokens.append(Token("anna", digest_of("anna"), [Scope.READ, Scope.OPERATE], 0))

    text = page(stage, token="anna")

    assert "step 2, press move: status 503: busy" in text
    assert 'href="./components/press"' in text
    assert f'href="./runs/{run_id(2)}">Look' in text
    assert 'href="./bulk/new?action=replay&amp;state=failed&amp;flow=1&amp;component=press' in text
    # The bar: its counts are made at most once in two seconds, and a busy machine cuts a search.
    assert wait_until(lambda: re.search("runs fail|not well: node 2", page(stage, token="anna")))


def test_whoever_may_only_read_is_offered_no_action(site):
    stage = site(a_failure(1, NOW_MS - 9_000))
    assert "Replay" not in page(stage)


def test_the_figures_count_runs_and_say_how_long_they_took(site):
    stage = site(*(a_success(n, NOW_MS - MINUTE_MS) for n in range(4)), in_flight=31, waiting=2,
                 oldest_waiting_ms=NOW_MS, flows=[FlowStatus("1", 2, 31, 0, "anna")])  # fmt: skip

    shown = shown_words(page(stage))

    assert "4 in the last 60 minutes" in shown
    assert re.search(r"p50 [34]\d ms", shown)
    assert "in flight 31" in shown.lower()
    assert "paused by anna" in shown


def test_the_first_day_says_what_to_do_first(site):
    shown = shown_words(page(site()))
    assert "No run in the last 24 hours" in shown
    assert "component_msg" in shown  # the topic
    assert "nobody has handled None." in shown


def test_a_check_that_is_not_well_is_a_condition_with_its_time(site):
    stage = site(checks=[("mqtt", False, "broker:1883: refused"), ("clock", True, "plausible")],
                 faults_since_ms={"mqtt": NOW_MS - MINUTE_MS})  # fmt: skip

    text = page(stage)

    assert "not well: broker" in text
    assert re.search(r"broker : not well broker:1883: refused since \d\d:\d\d", shown_words(text))
    assert "Also well: clock." in shown_words(text)


def test_a_balancer_that_names_a_dead_node_is_a_condition(site):
    to_2 = Placed("2", "the balancer named node 2", cause=Cause.BALANCER)
    back = Placed("1", "node 2 could not be reached: refused", cause=Cause.PEER_UNREACHABLE)
    facts = [accepted(FLOW), to_2, back, Settled(State.SUCCEEDED)]
    run = WrittenRun(run_id(1), FLOW, [(NOW_MS - 60_000 + n, f) for n, f in enumerate(facts)])
    stage = site(run)

    assert "node 2, which did not take 1 run" in page_with(stage, "/", "did not take")
    shown = page_with(stage, "/nodes", "did not take 1 run")
    assert "node 2 could not be reached: refused" in shown


def test_components_that_need_attention_come_first_with_why_and_since_when(site):
    opened = ComponentStatus("slow", 0, 4, "open", NOW_MS - 90_000, "9 of 10 calls failed")
    stage = site(a_failure(1, NOW_MS - 9_000), components=[opened, ComponentStatus("b", 3, 7)])

    shown = shown_words(page(stage, "/components"))

    assert re.search(r"slow ✗ circuit open \S+ 9 of 10 calls failed", shown)
    assert re.search(r"b ! calls wait", shown)
    assert shown.index("circuit open") < shown.index("calls wait") < shown.index("✓ well")
    assert "press - not configured" in shown  # it has failures, and is in no file


def test_the_page_of_a_component_shows_its_failures_its_calls_and_who_calls_it(site, monkeypatch):
    monkeypatch.setattr(stages, "config", lambda: config(flows={"1": FLOW}))
    stage = site(a_success(1, NOW_MS - 30_000), a_failure(2, NOW_MS - 20_000))

    shown = page_with(stage, "/components/press", "5 ms")  # the call that succeeded

    assert "step 2, press move: status 503" in shown
    assert re.search(r"1 press a part 2 POST move 5", shown)
    assert "press" not in page(stage, "/components/none", status=404)


def test_a_node_that_never_answers_does_not_hold_up_the_page(site, monkeypatch):
    with closing(socket.create_server((stages.HOST, 0))) as silent:
        known = config()
        node = known.nodes["2"]
        origin = Origin("http", stages.HOST, silent.getsockname()[1])
        node = msgspec.structs.replace(
            node, describe=msgspec.structs.replace(node.describe, origin=origin)
        )
        known = msgspec.structs.replace(known, nodes={"2": node})
        monkeypatch.setattr(stages, "config", lambda: known)

        shown = shown_words(page(site(), "/nodes"))

    assert "is being asked" in shown


def test_a_node_without_others_says_how_to_join_one(site, monkeypatch):
    alone = msgspec.structs.replace(config(), nodes={})
    monkeypatch.setattr(stages, "config", lambda: alone)
    assert "fractal-rm pair invite" in shown_words(page(site(), "/nodes"))
