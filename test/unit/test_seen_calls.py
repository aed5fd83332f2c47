"""What runs have recorded about calls and hand-offs is read from their facts."""

from __future__ import annotations

import msgspec

from engine_stage import flows
from fractal_rm.domain.cause import Cause, ResponseExcerpt
from fractal_rm.domain.facts import ElementFinished, Finished, Placed, StepFailed
from fractal_rm.domain.hand_offs_seen import NotTaken, not_taken
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.seen_calls import SeenCall, calls_of

TEXT = """\
7
TO a 1
GET
  AS list
TO b 2
POST list
  FOREACH list
"""
NULL = msgspec.Raw(b"null")
FLOW = flows(TEXT)["7"]


def test_the_calls_of_a_run_have_their_time_their_status_and_why_they_failed():
    answer = ResponseExcerpt(503)
    facts = [
        (10, StepFailed(1, 1, "status 503", cause=Cause.STATUS, answer=answer)),
        (20, StepFailed(1, 2, "connection refused", cause=Cause.CONNECT_FAILED)),
        (30, Finished(1, 200, 8.5, NULL)),
    ]
    assert calls_of(FLOW, facts) == [
        SeenCall(10, 1, "a", "1", None, 503, "status 503"),
        SeenCall(20, 1, "a", "1", None, None, "connection refused"),
        SeenCall(30, 1, "a", "1", 8.5, 200),
    ]


def test_a_call_that_is_to_be_made_again_is_told_apart_from_the_last_one():
    again = Moment("boot", 1, 1)
    facts = [(1, StepFailed(1, 1, "late", retry_at=again)), (2, StepFailed(1, 2, "late"))]
    assert [call.is_retried for call in calls_of(FLOW, facts)] == [True, False]


def test_each_element_of_a_list_is_a_call_and_a_skipped_step_is_none():
    facts = [
        (10, Finished(1, 0, 0, NULL)),
        (20, ElementFinished(2, 1, 200, 4.0, NULL)),
        (30, ElementFinished(2, 2, 200, 5.0, NULL)),
        (31, Finished(2, 200, 9.0, NULL)),
    ]
    assert [call.took_ms for call in calls_of(FLOW, facts)] == [4.0, 5.0]


def test_a_step_that_the_flow_does_not_have_is_no_call():
    assert calls_of(FLOW, [(10, Finished(9, 200, 1.0, NULL))]) == []


def test_a_node_did_not_take_a_run_that_was_placed_again_because_of_it():
    to_2 = Placed("2", "the balancer named node 2", cause=Cause.BALANCER)
    refused = Placed("3", "node 2 answered 503", cause=Cause.OFFER_REFUSED)
    silent = Placed("1", "node 3 did not answer", cause=Cause.PEER_SILENT)
    here = Placed("1", "the balancer chose this node", cause=Cause.BALANCER)
    assert not_taken([[(1, here)], [(2, to_2), (3, refused), (4, silent)], []]) == [
        NotTaken("2", 3, "node 2 answered 503", 1),
        NotTaken("3", 4, "node 3 did not answer", 1),
    ]
