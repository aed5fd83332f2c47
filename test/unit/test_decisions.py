"""The functions that decide about admission, placement, hand-off and outcome."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.admission import (
    Limits,
    Load,
    check_room,
    check_same_trigger,
    is_last_attempt,
    is_too_old,
    may_begin,
)
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import CallTimedOut, ConnectFailed
from fractal_rm.domain.cause import Cause, Failure, ResponseExcerpt
from fractal_rm.domain.flow import Retry
from fractal_rm.domain.handoff.messages import NoAnswer
from fractal_rm.domain.handoff.sender import (
    MAX_PAUSE_S,
    OFFER_TRIES,
    AfterSilence,
    RunHere,
    TryAgain,
    after_answer,
    after_doubt,
    ask_again,
)
from fractal_rm.domain.outcome import CONNECT_ATTEMPTS, MAX_RETRY_PAUSE_S, failure_of, retry_delay_s
from fractal_rm.domain.placement import (
    Here,
    There,
    place_by_balancer,
    reason_not_to_offer,
)
from fractal_rm.domain.refusals import Busy, KeyReused
from fractal_rm.domain.state import State

NO_ANSWER = Failure(Cause.PEER_SILENT, "it hangs")
fractions = st.floats(0, 1, exclude_max=True)


# --- admission


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 10))
def test_a_run_is_refused_if_there_are_too_many_runs_or_bytes(waiting, payload_bytes, size):
    limits = Limits(waiting=10, in_flight=5, memory_bytes=15)
    fits = waiting < 10 and payload_bytes + size <= 15
    try:
        check_room(Load(waiting=waiting, payload_bytes=payload_bytes), limits, size)
    except Busy as busy:
        assert not fits
        assert busy.retry_after_s
    else:
        assert fits


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.integers(2, 50))
def test_runs_never_exceed_the_slots_and_one_flow_never_has_all_slots(flows, slots):
    limits = Limits(in_flight=slots)
    in_flight = dict.fromkeys(range(6), 0)
    for flow in flows:
        if may_begin(in_flight[flow], Load(in_flight=sum(in_flight.values())), limits):
            in_flight[flow] += 1
    assert sum(in_flight.values()) <= slots
    assert all(count < slots for count in in_flight.values())


def test_a_flow_without_runs_in_flight_may_begin_a_run_while_any_slot_is_free():
    assert may_begin(0, Load(in_flight=9), Limits(in_flight=10))
    assert not may_begin(0, Load(in_flight=10), Limits(in_flight=10))


def test_at_the_memory_bound_of_results_a_run_begins_only_if_no_run_is_in_flight():
    limits = Limits(memory_bytes=100)
    assert not may_begin(0, Load(in_flight=1, result_bytes=100), limits)
    assert may_begin(0, Load(in_flight=1, result_bytes=99), limits)
    assert may_begin(0, Load(in_flight=0, result_bytes=100), limits)


def test_a_known_trigger_id_with_other_content_is_refused():
    check_same_trigger("run", "digest", "digest")
    with pytest.raises(KeyReused, match="run"):
        check_same_trigger("run", "digest", "other")


def test_the_last_attempt_is_known_before_it_begins():
    assert [is_last_attempt(n, 3) for n in (1, 2, 3)] == [False, False, True]


def test_a_run_is_too_old_if_its_age_is_greater_than_the_maximum():
    assert not is_too_old(3_600_000, 3600)
    assert is_too_old(3_600_001, 3600)


# --- placement and hand-off


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        (None, Here),
        ("1", Here),
        ("2", There),
        ("9", Here),
    ],
)
def test_the_answer_of_the_balancer_becomes_a_place(answer, place):
    assert isinstance(place_by_balancer(answer, {"1": 0, "2": 0}, own_id="1"), place)


def test_every_answer_of_the_balancer_gives_a_reason():
    for answer in (None, "1", "2", "no\nsuch"):
        assert place_by_balancer(answer, {"1": 0, "2": 0}, own_id="1").reason


@pytest.mark.parametrize(
    ("peer", "flow", "runs_this_program", "expected_reason"),
    [
        ("original", "7", False, None),
        ("original", "12", False, "is an original"),
        (None, "7", False, None),
        (None, "12", False, "runs another program"),
        (None, "12", True, None),
        ("fractal", "12", True, None),
    ],
)
def test_a_possible_original_is_offered_only_flows_that_an_original_can_run(
    peer, flow, runs_this_program, expected_reason
):
    reason = reason_not_to_offer(peer, flow, runs_this_program=runs_this_program)
    if expected_reason is None:
        assert reason is None
    else:
        assert reason.startswith(expected_reason)


@given(st.integers(1, 50), fractions)
def test_after_three_offers_that_were_not_sent_the_run_is_executed_here(tries, fraction):
    unsent = NoAnswer("refused", sent=False)
    following = after_answer(unsent, "2", tries, fraction, maybe_taken=False)
    assert isinstance(following, TryAgain if tries < OFFER_TRIES else RunHere)


@given(st.integers(1, 10_000), fractions)
def test_the_pause_between_offers_to_a_node_of_this_program_is_bounded(tries, fraction):
    following = ask_again(tries, "no answer", fraction)
    assert (following.maybe_taken, following.reason) == (True, "no answer")
    assert 0 < following.after_s <= MAX_PAUSE_S


RUN_HERE, UNKNOWN = AfterSilence.RUN_HERE, AfterSilence.UNKNOWN


@pytest.mark.parametrize(
    ("rule", "not_idempotent", "in_time", "runs_here"),
    [
        (None, None, True, True),
        (None, "press", True, False),
        (RUN_HERE, "press", True, True),
        (UNKNOWN, None, True, False),
        (RUN_HERE, None, False, False),
        (None, None, False, False),
    ],
)
def test_a_run_that_a_plain_peer_may_have_executed_is_executed_here_or_is_unknown(
    rule, not_idempotent, in_time, runs_here
):
    following = after_doubt(NO_ANSWER, rule=rule, not_idempotent=not_idempotent, in_time=in_time)
    assert isinstance(following, RunHere) is runs_here
    assert following.reason.startswith("it hangs; the run may have been executed there")
    if runs_here:
        assert following.maybe_twice
        assert following.failure.cause is Cause.PEER_SILENT
    else:
        assert following.state is State.UNKNOWN
        assert following.cause is Cause.PEER_SILENT


# --- outcome


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_status_below_300_is_no_failure(status):
    assert failure_of(HttpResponse(status, b"", b"anything")) is None


@pytest.mark.parametrize("status", [300, 302, 400, 404, 500, 599])
def test_a_status_of_300_or_more_is_a_failure_with_the_response_in_its_reason(status):
    failure = failure_of(HttpResponse(status, b"", b"no\n such  thing"))
    assert failure.reason == f"status {status}: no such thing"
    assert (failure.cause, failure.answer) == (
        Cause.STATUS,
        ResponseExcerpt(status, body_start="no such thing"),
    )


def test_the_reason_of_a_failed_redirect_names_its_target():
    failure = failure_of(HttpResponse(308, b"Location: http://b/x y\r\n", b"\xff"))
    assert failure.reason == "status 308, pointing to http://b/x%20y: 1 bytes"
    assert failure.answer == ResponseExcerpt(308, "http://b/x%20y")


@pytest.mark.parametrize("maybe_read", [False, True])
@given(fractions)
def test_a_call_for_which_there_is_no_connection_has_three_attempts(maybe_read, fraction):
    unsent = ConnectFailed("refused")
    unsent.sent = maybe_read  # on an earlier connection, which the component has closed
    pauses = [retry_delay_s(unsent, tries, fraction) for tries in range(1, CONNECT_ATTEMPTS + 1)]
    assert all(pause is not None and pause > 0 for pause in pauses[:-1])
    assert pauses[-1] is None


FAILED = HttpResponse(503, b"", b"")
NO_REPLY = CallTimedOut("no answer", sent=True)


@given(st.integers(1, 10), fractions)
def test_a_call_that_may_have_arrived_is_retried_only_with_retry_in_the_flow(tries, fraction):
    for answer in (FAILED, NO_REPLY):
        assert retry_delay_s(answer, tries, fraction) is None
        assert retry_delay_s(answer, tries, fraction, retry=Retry(9), idempotent=False) is None
        pause = retry_delay_s(answer, tries, fraction, retry=Retry(9))
        assert (pause is None) == (tries > 9)


@given(st.integers(1, 100), st.integers(1, 86_400_000), fractions)
def test_retry_pauses_double_up_to_a_bound(tries, every_ms, fraction):
    pause = retry_delay_s(FAILED, tries, fraction, retry=Retry(100, every_ms))
    assert pause is not None
    full = min(max(MAX_RETRY_PAUSE_S, every_ms / 1000), every_ms / 1000 * 2 ** min(tries - 1, 20))
    assert full / 2 <= pause <= full


@pytest.mark.parametrize("status", [200, 302, 308, 400, 404, 408, 425, 429, 499, 500, 503])
def test_a_3xx_or_4xx_is_final_except_408_425_and_429(status):
    pause = retry_delay_s(HttpResponse(status, b"", b""), 1, 0, retry=Retry(1))
    assert (pause is None) == (status in {302, 308, 400, 404, 499})


@pytest.mark.parametrize(
    ("retry_after", "pause"),
    [
        ("7", 7.0),
        ("0", 0.05),
        ("300", 300.0),
        ("301", None),
        ("9" * 50, None),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.05),
        ("Thu, 01 Jan 2970 00:00:01 GMT", None),
        ("soon", 0.05),
        ("", 0.05),
        ("-1", 0.05),
    ],
)
def test_a_call_waits_for_the_time_in_the_header_retry_after_or_is_not_retried(retry_after, pause):
    answer = HttpResponse(429, f"Retry-After: {retry_after}\r\n".encode(), b"")
    assert retry_delay_s(answer, 1, 0, retry=Retry(1, 100), now_ms=10_000) == pause


@pytest.mark.parametrize("now_ms", [0, 1_800_000_000_000, 4_000_000_000_000])
@pytest.mark.parametrize(
    "retry_after",
    [
        "Fri, 15 Jan 2027 08:00:30 GMT",
        "Friday, 15-Jan-27 08:00:30 GMT",
        "Fri Jan 15 08:00:30 2027",
    ],
)
def test_a_date_in_the_header_retry_after_is_compared_with_the_date_of_the_response(
    now_ms, retry_after
):
    head = f"Date: Fri, 15 Jan 2027 08:00:00 GMT\r\nRetry-After: {retry_after}\r\n"
    answer = HttpResponse(503, head.encode(), b"")
    assert retry_delay_s(answer, 1, 0, retry=Retry(1, 100), now_ms=now_ms) == 30
