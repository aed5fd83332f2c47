"""The story of a run: each cause and each fact has a sentence that a person understands.

``python test/unit/test_story.py`` writes the stories of `_cases` into stories.txt. Read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import msgspec
import pytest

from fractal_rm.cli.main import cli
from fractal_rm.domain.cause import Cause, ResponseExcerpt
from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    CancelRequested,
    Dead,
    Discarded,
    ElementFinished,
    Finished,
    Offered,
    OfferInDoubt,
    Parked,
    Placed,
    Probed,
    Received,
    Released,
    Replying,
    RequestStarted,
    Restarted,
    Settled,
    StepFailed,
    StepPassed,
    StepUndone,
    Stopping,
    WaitStarted,
)
from fractal_rm.domain.flow import Keep, KeepSettings
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.node_status import ComponentStatus, FlowStatus, NodeStatus
from fractal_rm.domain.probe import ProbeVerdict
from fractal_rm.domain.state import State
from fractal_rm.domain.story import (
    Child,
    ComponentNote,
    NodeNote,
    RunToTell,
    Story,
    step_rows,
    tell,
)
from fractal_rm.flowlang import compile_flows

STORIES = Path(__file__).with_name("stories.txt")
BEGIN_MS = 1_000_000
FLOWS = """\
7 press a part
LIMIT 2
TO camera read
GET
TO press move
POST payload result1
  RETRY 2 EVERY 1s
  UNDO back
TO press check
POST payload.part.id
  EXPECT result3.ok == true
RUN 8 result3
WAIT 10m
PUBLISH plant/done result1
TO camera read
POST item
  FOREACH payload.parts
REPLY result3

8
TO camera read
GET
"""
ENDPOINTS = {"camera": ("read",), "press": ("move", "check", "back")}
FLOW = compile_flows(FLOWS, ENDPOINTS)[0]["7"]
MISSPELT = """\
7 watch the oven
TO camera read
GET
  AS shot
TO press check
POST JSON {"celsius": shot.temprature, "frame": shot.frame, "by": payload.operator.nane}
"""
COMPONENTS = {
    "camera": ComponentNote({"read": "http://10.0.0.1/read"}),
    "press": ComponentNote(
        {"move": "http://10.0.0.2/move", "check": "http://10.0.0.2/check"}, 1, idempotent=False
    ),
}
HERE = NodeNote(is_running=True, components=COMPONENTS)
RUN = "01M8KJPDYS2JZE96QG5S45AQ00"
OTHER = "01M8KJPEYG654QC7XT9Z8QHZ00"


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


def _at(ms: int) -> Moment:
    return Moment("boot", ms, BEGIN_MS + ms)


ACCEPTED = Accepted("7", "v", _raw('{"part":{"id":3}}'), "mqtt", node="1")
PLACED = Placed("1", "the balancer chose this node", cause=Cause.BALANCER)
READ = Finished(1, 200, 8.2, _raw('"ready"'))
MOVED = Finished(2, 200, 950.0, _raw('"moved"'))


def _told(*facts: AnyFact, state: State, step_ms: int = 100, **changes: object) -> RunToTell:
    timed = [(BEGIN_MS + at * step_ms, fact) for at, fact in enumerate(facts)]
    end = facts[-1] if facts else None
    told = RunToTell(
        id=RUN,
        flow_id="7",
        state=state,
        reason=getattr(end, "reason", ""),
        source="mqtt",
        journal="up",
        accepted_ms=BEGIN_MS,
        settled_ms=timed[-1][0] if state.final and timed else None,
        now_ms=BEGIN_MS + 60_000,
        clock=lambda ms: f"T+{(ms - BEGIN_MS) / 1000:g}s",
        facts=timed,
        flow=FLOW,
        here=HERE,
    )
    return msgspec.structs.replace(told, **changes)


def _failure(cause: Cause, reason: str, **keys: object) -> StepFailed:
    fields = {"final": True, "cause": cause, "step": 2, "attempt": 1, "reason": reason, **keys}
    return StepFailed(**fields)


def _failed(cause: Cause, reason: str, **keys: object) -> RunToTell:
    failure = _failure(cause, reason, **keys)
    end = Settled(State.FAILED, f"step {failure.step}, press: {reason}", cause)
    return _told(ACCEPTED, PLACED, READ, failure, end, state=State.FAILED)


def _status(status: int, body: str = "no", **keys: object) -> RunToTell:
    answer = ResponseExcerpt(status, body_start=body, **keys)
    return _failed(Cause.STATUS, f"status {status}: {body}".rstrip(": "), answer=answer)


def _dead_letter(cause: Cause) -> RunToTell:
    dead = Dead(cause.text, f"The message is wrong: it has {cause.text}", "mqtt", b'{"id_flow":')
    return _told(dead, state=State.DEAD, flow_id=None, flow=None)


def _ended(state: State, reason: str, cause: Cause, *facts: AnyFact) -> RunToTell:
    return _told(ACCEPTED, PLACED, *facts, Settled(state, reason, cause), state=state)


def _status_of_node(**changes: object) -> NodeStatus:
    status = NodeStatus(
        "1", "up", "1.0.0", 7, BEGIN_MS, BEGIN_MS, False, False, {}, 2, 5, None,
        [FlowStatus("7", 5, 2, 5)],
        [ComponentStatus("press", 1, 4, "open", None, "9 of 10 failed")], [],
    )  # fmt: skip
    return msgspec.structs.replace(status, **changes)


def _placements() -> Iterator[tuple[str, RunToTell]]:
    for cause, reason in (
        (Cause.BY_SENDER, "the sender placed the run here"),
        (Cause.NO_BALANCER, "no balancer is configured"),
        (Cause.BALANCER, "the balancer chose this node"),
        (Cause.BALANCER_FAILED, "the balancer failed: http://lb: no answer within 1 s"),
        (Cause.UNKNOWN_NODE, "the balancer named node x, which nodes.conf does not have"),
        (Cause.UNFIT_PEER, "node 2 is an original, which cannot run flow 70"),
        (Cause.PARENT, "the run is a child of run P"),
        (Cause.RETURNED, "the node that had the run has returned it"),
    ):
        named = "x" if cause is Cause.UNKNOWN_NODE else msgspec.UNSET
        placed = Placed("1", reason, cause=cause, named_node=named)
        end = Settled(State.SUCCEEDED)
        yield (
            f"placed: {cause.text}",
            _told(ACCEPTED, placed, READ, end, state=State.SUCCEEDED, step_ms=1500),
        )
    drained = Placed("2", "this node is drained: the run is offered to node 2", cause=Cause.DRAINED)
    end = Settled(State.HANDED_OFF, "node 2 has accepted the run", Cause.RECEIPT)
    yield (
        "placed: drained",
        _told(ACCEPTED, drained, Offered("2", 1), end, state=State.HANDED_OFF, node="2"),
    )


def _offers() -> Iterator[tuple[str, RunToTell]]:
    there = Placed("2", "the balancer named node 2", cause=Cause.BALANCER)
    for cause, reason in (
        (Cause.RECEIPT, "node 2 has accepted the run"),
        (Cause.PLAIN_PEER, "node 2 answered as a plain peer"),
        (Cause.OPERATOR, "anna decided that node 2 has the run"),
    ):
        end = Settled(State.HANDED_OFF, reason, cause)
        yield (
            f"offer: {cause.text}",
            _told(ACCEPTED, there, Offered("2", 1), end, state=State.HANDED_OFF, node="2"),
        )
    for cause, reason in (
        (Cause.NO_RECEIPT, "node 2 gave no receipt; the run may have been executed there"),
        (Cause.PEER_SILENT, "node 2 did not answer; the run may have been executed there"),
        (Cause.PEER_GONE, "node 2 is no longer in nodes.conf"),
        (Cause.PEER_REPLACED, "node 2 has lost its state folder since"),
    ):
        end = Settled(State.UNKNOWN, reason, cause)
        yield (
            f"offer: {cause.text}",
            _told(ACCEPTED, there, Offered("2", 1), end, state=State.UNKNOWN),
        )
    for cause, reason, twice in (
        (Cause.OFFER_REFUSED, "node 2 refused it: status 503", msgspec.UNSET),
        (Cause.PEER_UNREACHABLE, "node 2 could not be reached: connection refused", msgspec.UNSET),
        (Cause.PEER_SILENT, "node 2 did not answer", True),
    ):
        back = Placed("1", reason, twice, cause)
        yield f"offer, then here: {cause.text}", _told(
            ACCEPTED, there, Offered("2", 1), back, READ, Settled(State.SUCCEEDED),
            state=State.SUCCEEDED,
        )  # fmt: skip
    doubt = OfferInDoubt("node 2 did not answer: no connection within 3 s")
    yield (
        "offered, in doubt",
        _told(ACCEPTED, there, Offered("2", 1), doubt, state=State.OFFERED, node="2"),
    )
    yield "offered just now", _told(ACCEPTED, there, Offered("2", 1), state=State.OFFERED)


def _misspelt() -> Iterator[tuple[str, RunToTell]]:
    flow = compile_flows(MISSPELT, ENDPOINTS)[0]["7"]
    told = _told(
        Accepted("7", "v", _raw('{"operator":{}}'), "mqtt", node="1"), PLACED,
        Finished(1, 200, 8.2, _raw(r'"{\"frame\": \"f1\", \"temperature\": 20.1}"')),
        _failure(Cause.STATUS, "status 422: celsius must be a number",
                 answer=ResponseExcerpt(422, body_start="celsius must be a number")),
        Settled(State.FAILED, "step 2, press: status 422: celsius must be a number", Cause.STATUS),
        state=State.FAILED, flow=flow,
    )  # fmt: skip
    yield "a misspelt field", told
    yield "a misspelt field in EXPECT", _told(
        ACCEPTED, PLACED, READ, MOVED,
        _failure(Cause.NOT_EXPECTED, 'the response is not as expected: status 200: {"OK":true}',
                 step=3, answer=ResponseExcerpt(200, body_start='{"OK":true}')),
        Settled(State.FAILED, "step 3, press: the response is not as expected",
                Cause.NOT_EXPECTED),
        state=State.FAILED,
    )  # fmt: skip


def _failures() -> Iterator[tuple[str, RunToTell]]:
    for status in (400, 401, 404, 413, 422, 429, 500, 503):
        yield f"status {status}", _status(status)
    yield "redirect", _status(301, "", location="http://10.0.0.9/new")
    yield "retries", _told(
        ACCEPTED, PLACED, READ,
        StepFailed(2, 1, "status 503: busy", retry_at=_at(1300), cause=Cause.STATUS,
                   answer=ResponseExcerpt(503, body_start="busy")),
        _failure(Cause.STATUS, "status 503: busy", attempt=2,
                 answer=ResponseExcerpt(503, body_start="busy")),
        Stopping(State.FAILED, "step 2, press move: status 503: busy", Cause.STATUS),
        StepUndone(2, 200, 4.0),
        Settled(State.FAILED, "step 2, press move: status 503: busy", Cause.STATUS),
        state=State.FAILED,
    )  # fmt: skip
    for cause, reason in (
        (Cause.NOT_EXPECTED, 'the response is not as expected: status 200: {"ok":false}'),
        (Cause.CONNECT_FAILED, "http://10.0.0.2: connection refused"),
        (Cause.CIRCUIT_OPEN, "the circuit is open, and 100 other calls wait"),
        (Cause.TIMED_OUT, "no answer within the time limit"),
        (Cause.BAD_REPLY, "the connection was closed within the answer"),
        (Cause.REPLY_TOO_LARGE, "the answer is larger than 8,388,608 bytes"),
        (Cause.CALL_FAILED, "the connection was lost"),
        (Cause.DEADLOCK, "no permit of flow 8 can become free"),
        (Cause.CANNOT_EVALUATE, 'payload.part.id: there is no key "part"'),
        (Cause.TOO_MANY_VALUES, "more than 1,000,000 values"),
        (Cause.NOT_CONFIGURED, "the endpoint is no longer in components.conf"),
    ):
        yield cause.text, _failed(cause, reason)
    yield (
        "sub-flow",
        msgspec.structs.replace(
            _failed(Cause.SUB_FLOW, f"child run {OTHER} is failed: status 500", step=4),
            children=[Child(OTHER, State.FAILED, "8")],
        ),
    )
    yield (
        "publish-failed",
        _failed(Cause.PUBLISH_FAILED, "no broker is connected", step=0, part="@5", attempt=8),
    )
    yield "answer-lost", _ended(
        State.UNKNOWN, "step 2, press move: the component was called", Cause.ANSWER_LOST,
        READ, RequestStarted(2), Restarted(2),
    )  # fmt: skip
    for verdict in ProbeVerdict:
        probed = Probed(2, verdict, "status 404" if verdict is ProbeVerdict.UNKNOWN else "", 2)
        yield (
            f"probed: {verdict.text}",
            _told(
                ACCEPTED, PLACED, READ, RequestStarted(2), Restarted(2), probed, state=State.RUNNING
            ),
        )
    yield "a failed undo", _ended(
        State.FAILED, "step 3, press check: status 500", Cause.STATUS, READ, MOVED,
        _failure(Cause.STATUS, "status 500", step=3, answer=ResponseExcerpt(500)),
        Stopping(State.FAILED, "step 3, press check: status 500", Cause.STATUS),
        _failure(Cause.CONNECT_FAILED, "http://10.0.0.2: connection refused", part="undo.2"),
    )  # fmt: skip
    yield (
        "failed without a cause, by an older release",
        _told(ACCEPTED, Settled(State.FAILED, "step 1 failed"), state=State.FAILED),
    )


def _other_ends() -> Iterator[tuple[str, RunToTell]]:
    yield (
        "deadline",
        _ended(
            State.EXPIRED,
            "the deadline of 5 s ended when 1 of 5 calls were made",
            Cause.DEADLINE,
            READ,
        ),
    )
    yield "stale", _ended(State.EXPIRED, "the run waited for more than 60 s to begin", Cause.STALE)
    yield (
        "superseded",
        _ended(
            State.SUPERSEDED, f"the newer run {OTHER} replaces this run (LATEST)", Cause.SUPERSEDED
        ),
    )
    yield "unreadable", _ended(State.UNKNOWN, "facts of the run are lost", Cause.UNREADABLE, READ)
    yield "other", _ended(State.FAILED, "something that a later release knows", Cause.OTHER)
    for cause in (Cause.ATTEMPTS, Cause.INTERNAL, Cause.PARENT, Cause.UNREADABLE):
        dead = Dead(cause.text, f"the reason of {cause.text}")
        yield f"set aside: {cause.text}", _told(ACCEPTED, PLACED, dead, state=State.DEAD)
    for cause in (
        Cause.MALFORMED, Cause.TOO_LARGE, Cause.WRONG_CONTENT_TYPE, Cause.WRONG_CONTENT_CODING,
        Cause.WRONG_SHAPE, Cause.UNKNOWN_FLOW, Cause.KEY_REUSED, Cause.OWN_RUN,
    ):  # fmt: skip
        yield f"dead letter: {cause.text}", _dead_letter(cause)
    asked = CancelRequested("anna", cut=True)
    yield (
        "cancelled",
        _ended(State.CANCELLED, "anna cancelled the run", Cause.OPERATOR, READ, asked),
    )
    yield "succeeded with all kinds of steps", _told(
        ACCEPTED, Received("2", 1), PLACED, READ,
        StepFailed(2, 1, "connection refused", retry_at=_at(600), cause=Cause.CONNECT_FAILED),
        RequestStarted(2, 2), MOVED, Finished(3, 200, 3.0, _raw('"{}"')),
        Finished(4, 0, 0, _raw('{"a":1}')), WaitStarted(4, _at(600_000)), StepPassed(4),
        StepPassed(5), ElementFinished(5, 1, 200, 2.0, _raw('"x"')),
        ElementFinished(5, 2, 200, 9.0, _raw('"y"')), Finished(5, 0, 0, _raw('["x","y"]')),
        StepPassed(7, _raw("1")), Replying(State.SUCCEEDED), Settled(State.SUCCEEDED),
        state=State.SUCCEEDED, children=[Child(OTHER, State.SUCCEEDED, "8")],
    )  # fmt: skip
    again = Accepted(
        "7", "v", _raw("1"), "replay", replays=OTHER, from_step=2, actor="anna", node="1"
    )
    yield (
        "a run that repeats another",
        _told(again, READ, PLACED, MOVED, Settled(State.SUCCEEDED), state=State.SUCCEEDED),
    )
    yield "repeated", msgspec.structs.replace(_status(503), repeated_by=[OTHER])
    yield "discarded", _told(
        ACCEPTED, Settled(State.FAILED, "step 1 failed", Cause.STATUS),
        Discarded("anna", "known fault"), state=State.FAILED, reason="step 1 failed",
    )  # fmt: skip
    yield "without facts", _told(state=State.FAILED, reason="step 2, press move: status 503")


def _open_runs() -> Iterator[tuple[str, RunToTell]]:
    stopped = NodeNote(is_running=False, components=COMPONENTS)
    yield "the node does not run", _told(ACCEPTED, state=State.ACCEPTED, here=stopped)
    yield "waits", _told(ACCEPTED, state=State.ACCEPTED)
    paused = NodeNote(is_running=True, paused=True)
    yield "paused", _told(ACCEPTED, state=State.ACCEPTED, here=paused)
    limited = NodeNote(is_running=True, status=_status_of_node(), components=COMPONENTS)
    yield "waits for LIMIT", _told(ACCEPTED, state=State.ACCEPTED, here=limited)
    flow = NodeNote(is_running=True, status=_status_of_node(
        flows=[FlowStatus("7", 5, 0, 0, "anna")]))  # fmt: skip
    yield "its flow is paused", _told(ACCEPTED, state=State.ACCEPTED, here=flow)
    yield "a circuit is open", _told(ACCEPTED, PLACED, READ, state=State.RUNNING, here=limited)
    yield "a step in flight", _told(ACCEPTED, PLACED, READ, RequestStarted(2), state=State.RUNNING)
    yield "waits for a retry", _told(
        ACCEPTED, PLACED, READ,
        StepFailed(2, 1, "status 503", retry_at=_at(65_000), cause=Cause.STATUS),
        state=State.RUNNING,
    )  # fmt: skip
    yield (
        "in a WAIT",
        _told(ACCEPTED, PLACED, READ, WaitStarted(4, _at(600_000)), state=State.RUNNING),
    )
    yield (
        "its reply is sent",
        _told(ACCEPTED, PLACED, READ, Replying(State.SUCCEEDED), state=State.RUNNING),
    )
    yield (
        "is being undone",
        _told(
            ACCEPTED,
            PLACED,
            READ,
            Stopping(State.FAILED, "step 2", Cause.STATUS),
            state=State.RUNNING,
        ),
    )
    old = Parked("the run was found at start, 7200 s after its trigger", Cause.OLD)
    yield "parked: old", _told(ACCEPTED, READ, old, state=State.PARKED)
    restored = Parked("the node was restored from a backup", Cause.RESTORED)
    yield "parked: restored", _told(ACCEPTED, READ, restored, state=State.PARKED)
    crashed = Parked("the run was offered to node 2, and was in flight 3 times", Cause.ATTEMPTS)
    yield "parked: attempts", _told(ACCEPTED, Offered("2", 1), crashed, state=State.PARKED)
    yield "released", _told(ACCEPTED, old, Released("anna"), PLACED, state=State.RUNNING)


def _cases() -> Iterator[tuple[str, RunToTell]]:
    yield from _placements()
    yield from _offers()
    yield from _failures()
    yield from _misspelt()
    yield from _other_ends()
    yield from _open_runs()


CASES = dict(_cases())
NAMES = pytest.mark.parametrize("name", CASES)


def _text(name: str, story: Story) -> str:
    lines = [f"== {name} ({story.state.value}{', trouble' if story.is_trouble else ''})"]
    lines += [f"why: {story.why}"]
    for event in story.events:
        sign = "!" if event.is_problem else " "
        lines.append(f"  {(event.at_ms - BEGIN_MS) / 1000:g} {sign} {event.text}")
    lines += [f"  - {each.text}{': ' if each.words else ''}{each.command}" for each in story.advice]
    return "\n".join(lines) + "\n"


def _all_texts() -> str:
    return "\n".join(_text(name, tell(told)) for name, told in CASES.items())


def test_the_stories_are_those_that_were_read_and_approved():
    assert _all_texts() == STORIES.read_text("utf-8")


def test_every_cause_and_every_fact_is_told_in_a_story():
    facts = [fact for told in CASES.values() for _, fact in told.facts]
    causes = {getattr(fact, "cause", None) for fact in facts}
    assert set(Cause) - causes == set()
    assert {*get_args(AnyFact)} - {type(fact) for fact in facts} == set()
    assert {told.state for told in CASES.values()} == set(State) - {State.NEW}


@NAMES
def test_a_story_has_whole_sentences_and_no_names_of_the_program(name):
    story = tell(CASES[name])
    for text in (story.why, *(event.text for event in story.events)):
        assert text[-1:] in ".?…!" or ": " in text, text
        assert not any(word in text for word in ("None", "UNSET", "..", "Cause.", "State."))


@NAMES
def test_every_command_that_a_story_advises_exists_with_its_options(name):
    for advice in tell(CASES[name]).advice:
        command: click.Command = cli
        words = list(advice.words)
        while words and isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, advice.command
            command = found
        if advice.words:
            assert not isinstance(command, click.Group)
            _ = command.make_context(
                "test", [*words, "--config", "x"]
            )  # raises UsageError for an unknown option


def test_values_are_left_out_for_readers_that_may_not_see_them():
    told = msgspec.structs.replace(CASES["succeeded with all kinds of steps"], show_values=False)
    assert "moved" not in _text("", tell(told))
    assert not any("moved" in row.text for row in step_rows(told))


def test_the_names_of_fields_are_left_out_for_readers_that_may_not_see_values():
    story = tell(msgspec.structs.replace(CASES["a misspelt field"], show_values=False))
    assert "temperature" not in _text("", story)


@pytest.mark.parametrize("keeping", [KeepSettings(Keep.NONE), KeepSettings(mask=("operator",))])
def test_values_that_the_flow_does_not_keep_or_masks_have_no_fields(keeping):
    told = CASES["a misspelt field"]
    told = msgspec.structs.replace(told, flow=msgspec.structs.replace(told.flow, keeping=keeping))
    assert "operator" not in tell(told).why
    assert ("temperature" in tell(told).why) == bool(keeping.mask)


def test_the_middle_of_a_very_long_story_is_left_out():
    facts = [ACCEPTED, *(Placed("1", "x", cause=Cause.NO_BALANCER) for _ in range(1_000))]
    story = tell(_told(*facts, state=State.RUNNING))
    assert (len(story.events), story.left_out) == (200, 801)


def test_elements_of_a_list_make_one_sentence():
    parts = [ElementFinished(5, number, 200, 2.0, _raw("1")) for number in range(1, 5_001)]
    story = tell(_told(ACCEPTED, PLACED, *parts, state=State.RUNNING))
    assert any("5,000 elements" in event.text for event in story.events)


def test_the_steps_of_a_run_are_rows_in_the_order_of_the_flow():
    rows = step_rows(CASES["retries"])
    assert [(row.number, row.state, row.attempts) for row in rows[:3]] == [
        (1, "done", 1), (2, "undone", 2), (3, "not begun", 0),
    ]  # fmt: skip
    assert [row.what for row in rows[3:6]] == ["RUN 8", "WAIT 10 min", "PUBLISH plant/done"]


def test_a_run_whose_flow_is_not_known_is_told_by_the_numbers_of_its_steps():
    told = msgspec.structs.replace(CASES["retries"], flow=None, here=NodeNote())
    assert "step 2" in tell(told).why
    assert [row.number for row in step_rows(told)] == [1, 2]


def _advised(flows: str, endpoints=ENDPOINTS) -> list[str]:
    """The commands after the misspelt field was found, if flows.conf is like this now."""
    told = next(each for name, each in CASES.items() if "temprature" in _text(name, tell(each)))
    current = compile_flows(flows, endpoints)[0]["7"]
    told = msgspec.structs.replace(told, current=current, flow_changed=True)
    return [each.command for each in tell(told).advice]


def test_earlier_results_are_advised_only_if_flows_conf_still_has_the_earlier_steps():
    mended = "\n# mended\n" + MISSPELT.replace("temprature", "temperature")
    assert any("--from-step 2 --current-flow" in each for each in _advised(mended))
    other = mended.replace("TO camera read", "TO press back")
    commands = _advised(other)
    assert any("--current-flow" in each for each in commands)
    assert not any("--from-step" in each for each in commands)


def test_a_call_that_took_too_long_is_told_with_the_time_limit_of_its_step():
    text = "7 press\nTO press move\nGET\n  TIMEOUT 1s\n"
    flow = compile_flows(text, ENDPOINTS)[0]["7"]
    late = StepFailed(1, 1, "no answer", final=True, cause=Cause.TIMED_OUT)
    end = Settled(State.FAILED, "no answer", Cause.TIMED_OUT)
    facts = [(BEGIN_MS, fact) for fact in (ACCEPTED, PLACED, late, end)]
    told = _told(state=State.FAILED, facts=facts, flow=flow, reason="no answer")
    assert "The limit is TIMEOUT 1 s of this step." in tell(told).why


if __name__ == "__main__":
    _ = STORIES.write_text(_all_texts(), "utf-8")
