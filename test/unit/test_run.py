"""A run is computed from its facts, and its state changes only by the transition table."""

import os
from encodings.aliases import aliases
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.body import request_body
from fractal_rm.domain.call import BodyForm, HttpResponse
from fractal_rm.domain.expression import Payload, Result
from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    Dead,
    ElementFinished,
    Fact,
    Finished,
    Offered,
    Parked,
    Placed,
    Received,
    Released,
    RequestStarted,
    Restarted,
    Settled,
    StepFailed,
    StepPassed,
    StepUndone,
    Stopping,
    WaitStarted,
)
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.moment import Moment, left_ms
from fractal_rm.domain.result import display_json, result_of
from fractal_rm.domain.run import APPLY_BY_TYPE, Run, fold
from fractal_rm.domain.run_id import RunIds, is_run_id
from fractal_rm.domain.state import Placement, State
from fractal_rm.domain.transitions import ImpossibleFact

RAW = msgspec.Raw(b'"x"')
NOW = Moment("boot", 10_000, 1_700_000_000_000)
ACCEPTED = Accepted("1", "v", RAW, "mqtt")
facts = st.sampled_from(
    [
        ACCEPTED,
        Received("n", 1),
        Placed(None, "here"),
        Placed("2", "there"),
        Offered("2", 1),
        Restarted(2),
        RequestStarted(1),
        Finished(1, 200, 1.5, RAW),
        StepFailed(1, 1, "no"),
        Parked("old"),
        Released(),
        Settled(State.SUCCEEDED),
        Settled(State.FAILED, "no"),
        Dead("code", "why"),
    ]
)


def new():
    return Run("R", Flow("1"), 0)


@given(st.lists(facts, max_size=12))
def test_a_run_in_a_final_state_accepts_no_fact(history):
    run = new()
    for fact in history:
        was_final = run.state.final
        try:
            run.apply(fact)
        except ImpossibleFact:
            continue
        assert not was_final


@given(st.lists(facts, max_size=12))
def test_folding_the_facts_of_a_run_gives_the_same_run(history):
    run, applied = new(), []
    for fact in history:
        try:
            run.apply(fact)
        except ImpossibleFact:
            continue
        applied.append(fact)
    again = fold(
        new(), [msgspec.json.decode(msgspec.json.encode(f), type=AnyFact) for f in applied]
    )
    assert msgspec.json.encode(again) == msgspec.json.encode(run)


@given(facts)
def test_the_first_fact_of_a_run_is_accepted_or_dead(fact):
    run = new()
    if isinstance(fact, Accepted | Dead):
        run.apply(fact)
    else:
        with pytest.raises(ImpossibleFact):
            run.apply(fact)


def test_every_kind_of_fact_is_applied_by_a_function():
    assert set(APPLY_BY_TYPE) == set(get_args(AnyFact)) == set(Fact.__subclasses__())


def test_a_step_is_in_doubt_from_its_request_to_its_result():
    run = fold(new(), [ACCEPTED, RequestStarted(1)])
    assert run.progress.in_doubt == {"1"}
    run.apply(Finished(1, 200, 1.0, RAW))
    assert not run.progress.in_doubt
    assert len(run.progress.results) == 1


def test_a_run_is_offered_until_it_is_placed_here():
    run = fold(
        new(),
        [ACCEPTED, Placed("2", "named by the balancer"), Offered("2", 1, runs_this_program=True)],
    )
    assert (run.placement, run.epoch, run.node) == (Placement.OFFERED, 1, "2")
    run.apply(Placed(None, "refused"))
    assert (run.placement, run.node, run.state) == (Placement.HERE, None, State.ACCEPTED)


def test_an_accepted_run_has_a_place_only_if_its_sender_placed_it():
    assert fold(new(), [ACCEPTED]).placement is Placement.NOT_YET
    placed = msgspec.structs.replace(ACCEPTED, placed=True)
    assert fold(new(), [placed]).placement is Placement.BY_SENDER


def test_a_run_is_placed_on_a_node_before_it_is_offered_to_that_node():
    run = fold(new(), [ACCEPTED, Placed("2", "named by the balancer")])
    assert (run.placement, run.node) == (Placement.NAMED, "2")
    run.apply(Offered("2", 1))
    assert run.placement is Placement.OFFERED_ONCE


@pytest.mark.parametrize("fact", [
    RequestStarted(1), Finished(1, 200, 1.0, RAW), ElementFinished(1, 1, 200, 1.0, RAW),
    StepFailed(1, 1, "no"), WaitStarted(0, NOW), StepPassed(0), Stopping(State.FAILED, "no"),
    StepUndone(1, 200, 1.0),
])  # fmt: skip
def test_after_the_first_fact_of_a_step_a_run_is_placed_here(fact):
    run = fold(new(), [ACCEPTED, fact])
    assert (run.state, run.placement) == (State.RUNNING, Placement.HERE)


def test_a_released_run_stays_placed_on_this_node():
    run = fold(new(), [ACCEPTED, Finished(1, 200, 1.0, RAW), Parked("old"), Released()])
    assert (run.state, run.placement) == (State.ACCEPTED, Placement.HERE)


def test_a_released_run_that_was_offered_to_a_node_stays_offered():
    offered = [
        ACCEPTED,
        Placed("2", "named by the balancer"),
        Offered("2", 1, runs_this_program=True),
    ]
    run = fold(new(), [*offered, Parked("old"), Released()])
    assert (run.state, run.placement) == (State.ACCEPTED, Placement.OFFERED)


@given(st.integers(0, 2**48 - 2), st.binary(min_size=9, max_size=9))
def test_run_ids_sort_by_time(now_ms, chance):
    chances = iter((b"\xff" * 9, chance))
    ids = RunIds(lambda _size: next(chances))
    earlier, later = ids.next(now_ms), ids.next(now_ms + 1)
    assert earlier < later
    assert is_run_id(earlier)
    assert is_run_id(later)


def test_run_ids_of_one_millisecond_differ_and_are_sorted():
    ids = RunIds(os.urandom)
    run_ids = [ids.next(1) for _ in range(5_000)]
    assert len(set(run_ids)) == 5_000
    assert run_ids == sorted(run_ids)


@given(st.lists(st.integers(0, 2**47), min_size=1, max_size=20))
def test_run_ids_sort_in_the_order_of_creation_even_if_the_clock_is_set(moments_ms):
    ids, run_ids = RunIds(os.urandom), []
    for moment_ms in moments_ms:
        run_ids += [ids.next(moment_ms), ids.next(moment_ms)]
    later = RunIds(os.urandom)
    later.continue_after(run_ids[-1])
    run_ids.append(later.next(0))
    assert run_ids == sorted(run_ids)
    assert len(set(run_ids)) == len(run_ids)
    assert all(map(is_run_id, run_ids))


def test_a_request_body_has_the_items_as_json():
    results = {1: msgspec.Raw(b'"one\\n"'), 2: msgspec.Raw(b'"two"')}
    body = request_body(
        (Result(2), Payload(), Result(1)), msgspec.Raw(b'{"a": 1}'), results, BodyForm.JSON
    )
    assert msgspec.json.decode(body) == {"payload": ["two", {"a": 1}, "one\n"]}


def test_a_post_without_items_sends_an_empty_list():
    assert request_body((), RAW, {}, BodyForm.JSON) == b'{"payload": []}'


def test_a_request_body_can_be_a_python_repr_as_in_the_original():
    body = request_body((Payload(),), msgspec.Raw(b'{"a": [true, null]}'), {}, BodyForm.PYTHON_REPR)
    assert body == b"{'payload': [{'a': [True, None]}]}"


@pytest.mark.parametrize(
    ("kind", "raw", "text"),
    [
        (None, "é\n".encode(), "é\n"),
        ("text/plain; charset=latin-1", b"\xe9", "é"),
        ('text/plain; charset="utf-8"', "é".encode(), "é"),
        ("text/plain; charset=no-such", b"plain", "plain"),
        ("text/plain; charset=punycode", b"a-b", "a-b"),
        ("text/plain; charset=unicode_escape", b"\\ud800", "\\ud800"),
        ("text/plain; charset=utf-7", b"+2AA-", "+2AA-"),
        ("text/plain; charset=UTF-16", b"\xff\xfea\x00", "a"),
        ("text/plain; charset=windows-1252", b"\x80", "€"),
        ("text/plain; charset=ISO-8859-15", b"\xa4", "€"),
        ("text/plain; charset=KOI8-R", b"\xc1", "а"),
        ("text/plain; charset=gb2312", b"\xd6\xf7", "主"),
        ("text/plain; charset=Shift_JIS", b"\x8e\xe5", "主"),
        ("text/plain; charset=euc-jp", b"\xbc\xe7", "主"),
        ("text/plain; charset=euc-kr", b"\xf1\xab", "主"),
        ("text/plain; charset=Big5", b"\xa5D", "主"),
        ("application/json", b"", ""),
        ("text/plain; charset=x-unknown", "é".encode(), "é"),
        ('text/plain; x="charset=latin-1"', "é".encode(), "é"),
        ("application/json; charset=latin-1", '\ufeff"é"'.encode(), '\ufeff"é"'),
        ("image/svg+xml; charset=latin-1", "é".encode(), "é"),
    ],
)
def test_a_result_is_the_response_text_in_its_charset(kind, raw, text):
    head = f"Content-Type: {kind}\r\n".encode() if kind else b""
    assert msgspec.json.decode(result_of(HttpResponse(200, head, raw))) == text


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("image/jpeg", b"\xff\xd8\xff\xe0"),
        ("application/json", b"\xff"),
        ("text/plain; charset=US-ASCII", b"\xe9"),
        ("text/plain; charset=UTF-16", b"\xff\xfea\x00\x00\xd8"),
        ("text/plain; charset=utf-32", b"\xff\xfe\x00\x00\x00\xd8\x00\x00"),
        ("text/plain; charset=windows-1252", b"\x81"),
        ("text/plain; charset=x-unknown", b"\xff"),
        ("text/plain; charset=latin-1", b"\xef\xbb\xbf\xff"),
        *(
            (f"{kind}; charset=ISO-8859-1", b"\xff\xd8\xff\xe0")
            for kind in (
                "image/jpeg",
                "Audio/x",
                "video/mp4",
                "application/octet-stream",
                "application/pdf",
            )
        ),
    ],
)
def test_a_response_that_is_not_text_in_its_charset_is_bytes(kind, raw):
    assert result_of(HttpResponse(200, f"Content-Type: {kind}\r\n".encode(), raw)) == raw


_charsets = st.sampled_from([*aliases, *aliases.values(), "unicode_escape", "undefined"])


@given(_charsets | st.text(), st.binary() | st.text(alphabet="+-AD8Uu\\d0").map(str.encode))
def test_any_bytes_under_any_charset_result_in_a_text_or_the_same_bytes(charset, raw):
    kind = f'text/plain; charset="{charset}"'.encode("utf-8", "replace")
    result = result_of(HttpResponse(200, b"Content-Type: %b\r\n" % kind, raw))
    assert result == raw or isinstance(msgspec.json.decode(result), str)
    assert msgspec.json.decode(display_json(result)) is not None


# --- facts of older releases --------------------------------------------------------------------

OLD = b"""[[1, {"fact": "accepted", "flow": "7", "version": "v", "payload": "p", "source": "mqtt",
 "placed": false, "key": null}], [2, {"fact": "placed", "node": null, "reason": "here"}],
 [3, {"fact": "finished", "step": 1, "status": 200, "took_ms": 0.5, "result": "one"}],
 [4, {"fact": "started", "step": 2, "attempt": 1}],
 [5, {"fact": "step-failed", "step": 2, "attempt": 1, "reason": "refused"}],
 [6, {"fact": "started", "step": 2, "attempt": 2}]]"""


def test_facts_of_an_older_release_rebuild_the_run():
    page = msgspec.json.decode(OLD, type=list[tuple[int, AnyFact]])
    run = fold(new(), [fact for _, fact in page])
    assert (run.state, run.progress.position, run.progress.in_doubt) == (State.RUNNING, 1, {"2"})
    assert run.progress.results == {1: msgspec.Raw(b'"one"')}
    last = run.progress.failures["2"]
    assert (last.attempt, last.final, last.retry_at) == (1, msgspec.UNSET, msgspec.UNSET)


def test_facts_of_a_flow_in_the_original_language_have_only_the_original_keys():
    facts = [ACCEPTED, RequestStarted(1), Finished(1, 200, 1.0, RAW)]
    keys_of_facts = [set(msgspec.json.decode(msgspec.json.encode(fact))) for fact in facts]
    assert keys_of_facts == [
        {"fact", "flow", "version", "payload", "source", "placed", "key"},
        {"fact", "step", "attempt"},
        {"fact", "step", "status", "took_ms", "result"},
    ]


# --- waits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "expected_ms"),
    [
        (NOW, 5_000),
        (Moment("boot", 12_000, 0), 3_000),
        (Moment("boot", 99_000, 0), 0),
        (Moment("other", 0, NOW.wall_ms + 1_000), 4_000),
        (Moment("other", 0, NOW.wall_ms + 999_000), 0),
        (Moment("other", 0, 0), 5_000),
    ],
)
def test_the_remaining_time_of_a_wait_is_between_zero_and_its_full_time(moment, expected_ms):
    assert left_ms(NOW.after(5_000), moment, 5_000) == expected_ms
