"""Makes the mocked replies of a case from the facts of a recorded run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeGuard, Union

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.cases.model import BalancerMock, Body, Case, Fault, PeerMock, ReplyMock, Selector
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    ElementFinished,
    Finished,
    Offered,
    Placed,
    Settled,
    StepFailed,
    StepPassed,
    StepUndone,
    request_name,
    undo_request_name,
)
from fractal_rm.domain.handoff.sender import OFFER_TRIES
from fractal_rm.domain.masking.secrets import SecretMask
from fractal_rm.domain.result import StepResult, result_from_fields
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import RunDetail, TimedFact

# In the facts of a run, these values mean the node that accepted the run: None, and the node's id.
LocalNodeNames = tuple[None, Union[str, UnsetType]]


def case_with_replies(
    detail: RunDetail,
    accepted: Accepted,
    mask: SecretMask,
    children: Sequence[RunDetail],
    name: str,
) -> Case:
    """A case that has the replies of a run, and no expectations."""
    facts = [timed.fact for timed in detail.facts]
    local_names = (None, accepted.node)
    replies: list[ReplyMock] = []
    broker_down = False
    for run in (detail, *children):
        facts_of_calls = [timed for timed in run.facts if not _is_failed_message(timed.fact)]
        broker_down = broker_down or _broker_was_down([timed.fact for timed in run.facts])
        sub_flow = None if run is detail else run.summary.flow
        replies += _mocks(facts_of_calls, sub_flow)
    if detail.summary.state is State.EXPIRED:  # a request got no reply before the deadline
        replies.append(ReplyMock(fault=Fault.TIMEOUT))
    return Case(
        name=name,
        flow=accepted.flow,
        payload=_masked_json(accepted.payload, mask),
        placed=accepted.placed or accepted.source == "peer",
        deadline_ms=None if accepted.budget_ms is UNSET else max(1, accepted.budget_ms),
        broker_down=broker_down,
        replies=tuple(_masked(mock, mask) for mock in _without_repeats(replies)),
        balancer=_balancer(facts, local_names),
        peers=tuple(_peers(facts, local_names)),
    )


def _masked_json(raw: msgspec.Raw, mask: SecretMask) -> bytes:
    """JSON text with masked secrets. A text without secrets is unchanged."""
    text = _text_of(raw)
    if text is not None:
        return msgspec.json.encode(mask.text(text))
    return mask.text(bytes(raw).decode()).encode()


def _text_of(raw: msgspec.Raw) -> str | None:
    """The text of a JSON string. None for any other JSON value."""
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.ValidationError:
        return None


def _broker_was_down(facts: Sequence[AnyFact]) -> bool:
    """Whether the run did not send one of its messages, because the broker did not accept it."""
    last_failures = {fact.part: fact for fact in facts if _is_failed_message(fact)}
    sent_parts = {f"@{fact.position}" for fact in facts if isinstance(fact, StepPassed)}
    return any(fact.final is True or part not in sent_parts for part, fact in last_failures.items())


def _is_failed_message(fact: AnyFact) -> TypeGuard[StepFailed]:
    """Whether a fact says that the broker did not accept a message.

    Such a fact has step 0, and its attempt is not 0.
    """
    return isinstance(fact, StepFailed) and fact.step == 0 and fact.attempt > 0


def _masked(mock: ReplyMock, mask: SecretMask) -> ReplyMock:
    return msgspec.structs.replace(
        mock,
        body=_masked_body(mock.body, mask),
        headers=tuple((name, mask.header(name, value)) for name, value in mock.headers),
    )


def _masked_body(body: Body, mask: SecretMask) -> Body:
    """Mask a body that is text. A body of bytes is not masked."""
    return body if body.text is UNSET else Body(mask.text(body.text))


def _without_repeats(mocks: Iterable[ReplyMock]) -> list[ReplyMock]:
    """At the end of each request's replies, drop each reply that equals the one before it.

    They are not needed, because the last reply of a request is used for all later attempts.
    """
    by_request: dict[Selector, list[ReplyMock]] = {}
    for mock in mocks:
        by_request.setdefault(mock.selector, []).append(mock)
    needed_mocks: list[ReplyMock] = []
    for replies in by_request.values():
        while len(replies) > 1 and replies[-1] == replies[-2]:
            replies.pop()
        needed_mocks += replies
    return needed_mocks


def _mocks(facts: Sequence[TimedFact], sub_flow: str | None) -> Iterator[ReplyMock]:
    """Yield the reply to each attempt of each request, in order.

    ``sub_flow`` is the id of the flow if it was started by RUN, otherwise None.
    """
    failed: dict[str, StepFailed] = {}
    for timed in facts:
        fact = timed.fact
        if _is_failed_attempt(fact):
            name = request_name(fact.step, fact.part)
            if name in failed:
                yield _failure_mock(name, failed[name], sub_flow)
            failed[name] = fact
        elif isinstance(fact, (Finished, ElementFinished, StepUndone)):
            name = _request_name(fact)
            failure = failed.pop(name, None)
            # With ERRORS continue, the reply to the failed attempt is also the result of the step.
            # Both facts then have the same reply, which must become one mock only.
            if failure is not None and not _is_same_reply(failure, fact):
                yield _failure_mock(name, failure, sub_flow)
            if fact.status:  # otherwise no component was called
                yield _success_mock(name, fact, sub_flow)
    for name, fact in failed.items():
        yield _failure_mock(name, fact, sub_flow)


def _is_failed_attempt(fact: AnyFact) -> TypeGuard[StepFailed]:
    """Whether a fact is a failed attempt of a call.

    A failed RUN does not count: the replies are in the facts of the run that it started.
    """
    if not isinstance(fact, StepFailed) or fact.attempt == 0:
        return False
    return fact.cause is not Cause.SUB_FLOW


def _request_name(fact: Finished | ElementFinished | StepUndone) -> str:
    if isinstance(fact, StepUndone):
        return undo_request_name(fact.step)
    return f"{fact.step}.{fact.element}" if isinstance(fact, ElementFinished) else str(fact.step)


def _is_same_reply(failure: StepFailed, end: Finished | ElementFinished | StepUndone) -> bool:
    if failure.answer is UNSET or failure.cause is not Cause.STATUS:
        return False
    return end.took_ms == 0 and failure.answer.status == end.status


def _selector(name: str, flow: str | None) -> Selector:
    """The selector of the request with this name, which is the last part of its Idempotency-Key."""
    if name.startswith("undo."):
        return Selector(call=int(name.removeprefix("undo.")), flow=flow, undo=True)
    number, _, element = name.partition(".")
    element_number = int(element) if element else None
    return Selector(call=int(number), flow=flow, element=element_number)


def _success_mock(
    name: str, fact: Finished | ElementFinished | StepUndone, flow: str | None
) -> ReplyMock:
    mock = ReplyMock(_selector(name, flow), fact.status, delay_ms=round(fact.took_ms))
    if isinstance(fact, StepUndone):  # the body of an undo's reply is not used
        return mock
    headers = fact.headers if isinstance(fact, Finished) else UNSET
    return msgspec.structs.replace(
        mock,
        body=_body(result_from_fields(fact.result, fact.data)),
        headers=() if headers is UNSET else tuple(headers.items()),
    )


def _body(result: StepResult) -> Body:
    if not isinstance(result, msgspec.Raw):
        return Body(data=result)
    text = _text_of(result)
    if text is None:  # a JSON value other than a string: its JSON text
        text = bytes(result).decode()
    return Body(text)


def _failure_mock(name: str, fact: StepFailed, flow: str | None) -> ReplyMock:
    selector, answer = _selector(name, flow), fact.answer
    if answer is UNSET:
        return ReplyMock(selector, fault=_FAULTS.get(fact.cause, Fault.BROKEN))
    headers = () if answer.location is UNSET else (("Location", answer.location),)
    text = "" if answer.body_start is UNSET else answer.body_start
    return ReplyMock(selector, answer.status, Body(text), headers)


_FAULTS: dict[Cause | UnsetType, Fault] = {
    Cause.TIMED_OUT: Fault.TIMEOUT,
    Cause.CONNECT_FAILED: Fault.REFUSED,
}


def _balancer(facts: Sequence[AnyFact], local_names: LocalNodeNames) -> BalancerMock:
    placed = next((fact for fact in facts if isinstance(fact, Placed)), None)
    if placed is None:
        return BalancerMock()
    if placed.cause is Cause.BALANCER_FAILED:
        return BalancerMock(fault=Fault.REFUSED)
    if placed.named_node is not UNSET:
        return BalancerMock(placed.named_node)
    node = None if placed.node in local_names else placed.node
    return BalancerMock(node)


def _peers(facts: Sequence[AnyFact], local_names: LocalNodeNames) -> Iterator[PeerMock]:
    """Yield the replies of the node to which the run was offered."""
    offered = any(isinstance(fact, Offered) for fact in facts)
    end_of_offer = next((fact for fact in facts if _ends_an_offer(fact, local_names)), None)
    if not offered or not isinstance(end_of_offer, (Placed, Settled)):
        return
    if end_of_offer.status is not UNSET:
        yield PeerMock(status=end_of_offer.status)
    elif end_of_offer.cause is Cause.PEER_UNREACHABLE:
        for _ in range(OFFER_TRIES):
            yield PeerMock(fault=Fault.REFUSED)
    elif end_of_offer.cause in (Cause.PLAIN_PEER, Cause.NO_RECEIPT):
        yield PeerMock(receipt=False)
    elif isinstance(end_of_offer, Placed) or end_of_offer.state is State.UNKNOWN:
        yield PeerMock(fault=Fault.TIMEOUT)


def _ends_an_offer(fact: AnyFact, local_names: LocalNodeNames) -> bool:
    return isinstance(fact, Settled) or (isinstance(fact, Placed) and fact.node in local_names)
