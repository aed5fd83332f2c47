"""Makes the mocked replies of a case from the facts of a recorded run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeGuard, Union

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.cases.model import BalancerMock, Body, Case, Fault, PeerMock, ReplyMock, Selector
from fractal_rm.cases.secrets import Mask
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
from fractal_rm.domain.handoff import OFFER_TRIES
from fractal_rm.domain.result import StepResult, result_from_fields
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import RunDetail, TimedFact

# The values that stand for the accepting node in the facts of a run: None, or the id of the node.
LocalNodeNames = tuple[None, Union[str, UnsetType]]


def case_with_replies(
    detail: RunDetail, accepted: Accepted, mask: Mask, children: Sequence[RunDetail], name: str
) -> Case:
    """A case with the replies of a run, without expectations."""
    facts = [timed.fact for timed in detail.facts]
    local_names = (None, accepted.node)
    replies: list[ReplyMock] = []
    broker_down = False
    for each, flow in ((detail, None), *((child, child.summary.flow) for child in children)):
        facts_of_calls = [timed for timed in each.facts if not _is_failed_message(timed.fact)]
        broker_down = broker_down or _broker_was_down([timed.fact for timed in each.facts])
        replies += _mocks(facts_of_calls, flow)
    if detail.summary.state is State.EXPIRED:  # the request in flight at the deadline got no reply
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


def _masked_json(raw: msgspec.Raw, mask: Mask) -> bytes:
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
    """Whether a message was not sent because the broker did not accept the message."""
    last = {fact.part: fact for fact in facts if _is_failed_message(fact)}
    sent = {f"@{fact.position}" for fact in facts if isinstance(fact, StepPassed)}
    return any(fact.final is True or part not in sent for part, fact in last.items())


def _is_failed_message(fact: AnyFact) -> TypeGuard[StepFailed]:
    """Whether the fact says that the broker did not accept a message.

    Such a fact has step 0 and the number of an attempt.
    """
    return isinstance(fact, StepFailed) and fact.step == 0 and fact.attempt > 0


def _masked(mock: ReplyMock, mask: Mask) -> ReplyMock:
    return msgspec.structs.replace(
        mock,
        body=_masked_body(mock.body, mask),
        headers=tuple((name, mask.header(name, value)) for name, value in mock.headers),
    )


def _masked_body(body: Body, mask: Mask) -> Body:
    """Mask a text body. Bytes contain no text and are not masked."""
    return body if body.text is UNSET else Body(mask.text(body.text))


def _without_repeats(mocks: Iterable[ReplyMock]) -> list[ReplyMock]:
    """Drop repeated replies at the end of each request: the last reply is repeated anyway."""
    by_request: dict[Selector, list[ReplyMock]] = {}
    for mock in mocks:
        by_request.setdefault(mock.selector, []).append(mock)
    found: list[ReplyMock] = []
    for of_request in by_request.values():
        while len(of_request) > 1 and of_request[-1] == of_request[-2]:
            of_request.pop()
        found += of_request
    return found


def _mocks(facts: Sequence[TimedFact], flow: str | None) -> Iterator[ReplyMock]:
    """The reply to each attempt of each request, in order. ``flow`` is the id of a sub-flow."""
    failed: dict[str, StepFailed] = {}
    for timed in facts:
        fact = timed.fact
        if _is_failed_attempt(fact):
            name = request_name(fact.step, fact.part)
            if name in failed:
                yield _failure_mock(name, failed[name], flow)
            failed[name] = fact
        elif isinstance(fact, (Finished, ElementFinished, StepUndone)):
            name = _request_name(fact)
            before = failed.pop(name, None)
            # With ERRORS continue, the reply of the failed attempt is also the result of the step,
            # and becomes one mock.
            if before is not None and not _is_same_reply(before, fact):
                yield _failure_mock(name, before, flow)
            if fact.status:  # without a status, no component was called
                yield _success_mock(name, fact, flow)
    for name, fact in failed.items():
        yield _failure_mock(name, fact, flow)


def _is_failed_attempt(fact: AnyFact) -> TypeGuard[StepFailed]:
    """Whether the fact is a failed attempt of a call.

    A failed RUN has no reply. The replies are in the facts of the run that RUN started.
    """
    if not isinstance(fact, StepFailed) or fact.attempt == 0:
        return False
    return fact.cause is not Cause.SUB_FLOW


def _request_name(fact: Finished | ElementFinished | StepUndone) -> str:
    if isinstance(fact, StepUndone):
        return undo_request_name(fact.step)
    return f"{fact.step}.{fact.element}" if isinstance(fact, ElementFinished) else str(fact.step)


def _is_same_reply(before: StepFailed, fact: Finished | ElementFinished | StepUndone) -> bool:
    if before.answer is UNSET or before.cause is not Cause.STATUS:
        return False
    return fact.took_ms == 0 and before.answer.status == fact.status


def _selector(name: str, flow: str | None) -> Selector:
    """A selector for the request with this name: the last part of the Idempotency-Key."""
    if name.startswith("undo."):
        return Selector(call=int(name[5:]), flow=flow, undo=True)
    number, _, element = name.partition(".")
    return Selector(call=int(number), flow=flow, element=int(element) if element else None)


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
    return Body(bytes(result).decode() if text is None else text)


def _failure_mock(name: str, fact: StepFailed, flow: str | None) -> ReplyMock:
    on, answer = _selector(name, flow), fact.answer
    if answer is UNSET:
        return ReplyMock(on, fault=_FAULTS.get(fact.cause, Fault.BROKEN))
    headers = () if answer.location is UNSET else (("Location", answer.location),)
    body = Body("" if answer.body_start is UNSET else answer.body_start)
    return ReplyMock(on, answer.status, body, headers)


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
    return BalancerMock(None if placed.node in local_names else placed.node)


def _peers(facts: Sequence[AnyFact], local_names: LocalNodeNames) -> Iterator[PeerMock]:
    """The replies of the node to which the run was offered."""
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
