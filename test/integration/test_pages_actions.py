"""People act on runs and dead letters with the forms of pages. The actions are in memory."""

from __future__ import annotations

import html
import re
import sys
import time
from contextlib import ExitStack

import msgspec
import pytest

from fractal_rm.config.token_file import TokenFile
from fractal_rm.domain.access import Scope
from fractal_rm.domain.actions import (
    Cancel,
    CannotActNow,
    DecideStep,
    Discard,
    NoLongerKept,
    Release,
    Replay,
)
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Discarded, Finished, Parked, Placed, Settled, StepFailed
from fractal_rm.domain.state import State
from fractal_rm.domain.tokens import Token, digest_of
from fractal_rm.flowlang import compile_flows
from operator_stage import operator_stage
from page_forms import form_of, main_of, main_part, read, send
from written_runs import WrittenRun, accepted, run_id, write_runs

NOW_MS = int(time.time() * 1000)
FLOWS = """\
1 press a part
TO camera read
GET
TO press move
POST payload
  UNDO move
"""
FLOW = compile_flows(FLOWS, {"camera": ("read",), "press": ("move",)})[0]["1"]
PLACED = Placed("1", "the balancer chose this node", cause=Cause.BALANCER)
READ = Finished(1, 200, 8.0, msgspec.Raw(b'"ready"'))
MOVED = Finished(2, 200, 5.0, msgspec.Raw(b'"ok"'))
LOST = StepFailed(2, 1, "the answer was lost", final=True, cause=Cause.ANSWER_LOST, unknown=True)
FACTS = {
    State.RUNNING: [READ, MOVED],
    State.FAILED: [
        READ, StepFailed(2, 1, "status 503: busy", final=True, cause=Cause.STATUS),
        Settled(State.FAILED, "step 2, press move: status 503: busy", Cause.STATUS),
    ],
    State.PARKED: [Parked("it was interrupted twice", Cause.ATTEMPTS)],
    State.UNKNOWN: [READ, LOST, Settled(State.UNKNOWN, "step 2: lost", Cause.ANSWER_LOST)],
    State.CANCELLED: [
        Settled(State.CANCELLED, "root cancelled the run", Cause.OPERATOR, actor="root"),
    ],
}  # fmt: skip
RUN = {state: run_id(number) for number, state in enumerate(FACTS, 1)}


@pytest.fixture(autouse=True)
def _now(monkeypatch):
    """Each test has its own time: pages count the last minutes, and a session takes long."""
    monkeypatch.setattr(sys.modules[__name__], "NOW_MS", int(time.time() * 1000))


def written(state: State, *more) -> WrittenRun:
    facts = [accepted(FLOW), PLACED, *FACTS[state], *more]
    at_ms = NOW_MS - 60_000
    return WrittenRun(RUN[state], FLOW, [(at_ms + n, fact) for n, fact in enumerate(facts)])


@pytest.fixture
def site(tmp_path):
    """Start the pages with runs in some states: ``site(State.FAILED, …)``."""
    with ExitStack() as stack:

        def start(*states: State, more=(), flows=None):
            write_runs(tmp_path, [written(each, *more) for each in states])
            with TokenFile(tmp_path).changing() as tokens:
                both = [Scope.READ, Scope.PAYLOAD, Scope.OPERATE]
                tokens += [Token(name, digest_of(name), both, 0) for name in ("anna", "bert")]
            stage = stack.enter_context(operator_stage(tmp_path, flows))
            stage.actions.runs = {RUN[each]: each for each in states}
            return stage

        yield start


def refuse(stage, error: Exception) -> None:
    """Let the node refuse each action."""

    async def act(_request):
        raise error

    stage.actions.act = act


# --- what is done ---------------------------------------------------------------------------------


def test_a_person_reads_what_will_happen_before_a_run_is_cancelled(site):
    stage = site(State.RUNNING)

    text = read(stage, f"/runs/{RUN[State.RUNNING]}/cancel")

    assert "it ends after its current step" in text
    assert "Undo step 2 (POST press move)" in text
    assert stage.actions.requests == []


def test_the_choices_of_the_form_are_those_of_the_action(site):
    stage, run = site(State.RUNNING), RUN[State.RUNNING]
    form = form_of(stage, f"/runs/{run}/cancel")

    answer = send(stage, form, cut="true", undo="false")

    assert (answer.status, answer.headers["location"]) == (
        303, f"../../runs/{run}?notice=cancelling",
    )  # fmt: skip
    (request,) = stage.actions.requests
    assert (request.action, request.actor) == (Cancel(run, cut=True, undo=False), "token anna")


def test_a_button_that_is_pressed_twice_acts_once_and_shows_the_same_result(site):
    stage = site(State.FAILED)
    form = form_of(stage, f"/runs/{RUN[State.FAILED]}/replay")

    first, second = (send(stage, form) for _ in range(2))

    assert first.status == 303
    assert first.headers["location"] == second.headers["location"]
    assert len(stage.actions.requests) == 1


def test_of_two_people_who_repeat_a_run_the_second_is_shown_what_the_first_has_done(site):
    stage, run = site(State.FAILED), RUN[State.FAILED]
    forms = {who: form_of(stage, f"/runs/{run}/replay", token=who) for who in ("anna", "bert")}

    first, second = (send(stage, form, token=who) for who, form in forms.items())

    new_run = stage.actions.handled[run]
    assert first.headers["location"].startswith(f"../../runs/{new_run}?")
    assert second.status == 409
    assert f'href="../../runs/{new_run}"' in second.body.decode()
    assert len(stage.actions.requests) == 1


def test_a_run_is_repeated_from_a_step_whose_earlier_results_are_kept(site):
    stage, run = site(State.FAILED), RUN[State.FAILED]
    path = f"/runs/{run}/replay"
    assert '<option value="2">step 2: POST press move' in read(stage, path)

    send(stage, form_of(stage, path), from_step="2")

    action = stage.actions.requests[0].action
    assert isinstance(action, Replay)
    assert action.from_step == 2


def test_the_advice_to_repeat_from_a_step_leads_to_a_form_with_this_step(site):
    stage, run = site(State.FAILED, flows={"1": FLOW}), RUN[State.FAILED]
    text = html.unescape(main_part(read(stage, f"/runs/{run}")))
    advised = re.findall(rf'href="[./]*(runs/{run}/replay\?[^"]*)"', text)

    chosen = [
        re.findall(r'<option value="(\d*)" selected>([^<]*)<', read(stage, f"/{path}"))
        for path in advised
    ]

    assert ["from_step=2" in path for path in advised] == [False, True]
    assert [[number for number, _ in each] for each in chosen] == [[""], ["2"]]
    assert "it calls camera and press" in chosen[0][0][1]
    assert chosen[1][0][1].endswith("with the earlier results: it calls press")


def test_a_form_with_a_chosen_step_is_sent_to_the_same_page(site):
    stage, run = site(State.FAILED, flows={"1": FLOW}), RUN[State.FAILED]

    answer = send(stage, form_of(stage, f"/runs/{run}/replay?from_step=2"), from_step="2")

    assert answer.status == 303
    assert stage.actions.requests[0].action == Replay(run, from_step=2)


def test_a_parked_run_is_released(site):
    stage, run = site(State.PARKED), RUN[State.PARKED]

    answer = send(stage, form_of(stage, f"/runs/{run}/release"))

    assert answer.headers["location"] == f"../../runs/{run}?notice=released"
    assert stage.actions.requests[0].action == Release(run)


def test_a_run_is_discarded_with_a_note(site):
    stage, run = site(State.FAILED), RUN[State.FAILED]

    send(stage, form_of(stage, f"/runs/{run}/discard"), note="a test")

    assert stage.actions.requests[0].action == Discard(run, "a test")


def test_a_step_in_doubt_is_decided_with_its_result(site):
    stage, run = site(State.UNKNOWN), RUN[State.UNKNOWN]
    form = form_of(stage, f"/runs/{run}/decide-step")

    wrong = send(stage, form, done="true", result='{"moved": tru}')
    send(stage, form, done="true", result='{"moved": true}')

    assert wrong.status == 422
    assert '{"moved": tru}' in main_of(wrong)
    assert "the result is not JSON" in main_of(wrong)
    (request,) = stage.actions.requests
    assert request.action == DecideStep(run, True, msgspec.Raw(b'{"moved": true}'))


def test_the_page_of_the_run_says_what_was_done_from_a_fixed_set(site):
    stage, run = site(State.PARKED), RUN[State.PARKED]

    assert "The run is released, and goes on." in read(stage, f"/runs/{run}?notice=released")
    assert "Pay" not in main_part(read(stage, f"/runs/{run}?notice=Pay+now"))


# --- what is not done -----------------------------------------------------------------------------


def test_an_action_that_is_not_possible_any_more_is_not_offered(site):
    stage = site(State.CANCELLED)

    text = read(stage, f"/runs/{RUN[State.CANCELLED]}/cancel", status=409)

    assert "It has ended as cancelled, as root asked, at 2" in text
    assert "<form" not in main_part(text)


def test_the_main_button_of_a_run_is_for_what_nobody_has_dealt_with(site):
    stage = site(State.FAILED)
    assert 'class="button primary"' in main_part(read(stage, f"/runs/{RUN[State.FAILED]}"))


def test_a_run_that_was_discarded_has_no_main_button(site):
    stage = site(State.FAILED, more=[Discarded("root", "known")])

    text = main_part(read(stage, f"/runs/{RUN[State.FAILED]}"))

    assert 'class="button primary"' not in text
    assert ">Replay</a>" in text


def test_a_run_that_was_discarded_says_by_whom(site):
    stage = site(State.FAILED, more=[Discarded("root", "known")])

    text = read(stage, f"/runs/{RUN[State.FAILED]}/discard", status=409)

    assert "It was discarded before, by root at" in text


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (NoLongerKept("its payload is not kept", run=RUN[State.FAILED]), 410, "is not kept"),
        (CannotActNow("the disk is full", run=RUN[State.FAILED]), 503, "Try again"),
    ],
)
def test_a_refusal_is_a_page_with_the_reason_and_what_can_be_done(site, error, status, says):
    stage, run = site(State.FAILED), RUN[State.FAILED]
    form = form_of(stage, f"/runs/{run}/replay")
    refuse(stage, error)

    answer = send(stage, form)

    assert answer.status == status
    assert says in main_of(answer)
    assert f"Nothing was done. {error}" in main_of(answer)
    assert f'href="../../runs/{run}/discard"' in answer.body.decode()
    assert ("retry-after" in answer.headers) == (status == 503)


def test_an_unknown_run_is_a_page_with_404(site):
    stage = site()
    for path in ("/runs/01M8UNKNOWN/cancel", "/dead/01M8UNKNOWN", "/bulk/unknown"):
        assert 'role="alert"' in read(stage, path, status=404)


def test_who_may_not_act_sees_no_button_and_the_scope_that_is_missing(site):
    stage, run = site(State.FAILED), RUN[State.FAILED]
    form = form_of(stage, f"/runs/{run}/discard")

    for path in (f"/runs/{run}", f"/runs/{run}/discard", "/bulk/new?action=replay&state=failed"):
        main = main_part(read(stage, path, token="read"))
        assert 'method="post"' not in main
        assert "scope operate" in main
    assert send(stage, form, token="read").status == 403
    assert stage.actions.requests == []


def test_a_form_without_the_token_of_its_session_does_nothing(site):
    stage = site(State.FAILED)
    form = form_of(stage, f"/runs/{RUN[State.FAILED]}/discard")

    answer = send(stage, form, form_token="0")

    assert answer.status == 403
    assert stage.actions.requests == []
