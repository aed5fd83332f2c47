"""What the world around a run answered, as its facts say it: the replies of a case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeGuard, Union

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.cases.model import BalancerMock, Case, Fault, Mock, PeerMock, Said, Selector
from fractal_rm.cases.secrets import Mask
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    ElementFinished,
    Finished,
    Offered,
    Passed,
    Placed,
    Settled,
    StepFailed,
    Undone,
    name_of,
    undo_name,
)
from fractal_rm.domain.placement import OFFER_TRIES
from fractal_rm.domain.result import StepResult, restored
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import RunDetail, TimedFact

Here = tuple[None, Union[str, UnsetType]]  # by which facts of a run name the node that has taken it


def heard(
    detail: RunDetail, accepted: Accepted, mask: Mask, children: Sequence[RunDetail], name: str
) -> Case:
    """A case that says what the world around a run answered, and expects nothing yet."""
    facts = [timed.fact for timed in detail.facts]
    here = (None, accepted.node)
    replies: list[Mock] = []
    broker_down = False
    for each, flow in ((detail, None), *((child, child.summary.flow) for child in children)):
        of_calls = [timed for timed in each.facts if not _is_of_a_message(timed.fact)]
        broker_down = broker_down or _was_down([timed.fact for timed in each.facts])
        replies += _mocks(of_calls, flow)
    if detail.summary.state is State.EXPIRED:  # what was under way then was never answered
        replies.append(Mock(fault=Fault.TIMEOUT))
    return Case(
        name=name,
        flow=accepted.flow,
        payload=_masked_json(accepted.payload, mask),
        placed=accepted.placed or accepted.source == "peer",
        deadline_ms=None if accepted.budget_ms is UNSET else max(1, accepted.budget_ms),
        broker_down=broker_down,
        replies=tuple(_masked(mock, mask) for mock in _without_repeats(replies)),
        balancer=_balancer(facts, here),
        peers=tuple(_peers(facts, here)),
    )


def _masked_json(raw: msgspec.Raw, mask: Mask) -> bytes:
    """JSON text, letter for letter as it was where it holds no secret."""
    text = _text_of(raw)
    if text is not None:
        return msgspec.json.encode(mask.text(text))
    return mask.text(bytes(raw).decode()).encode()


def _text_of(raw: msgspec.Raw) -> str | None:
    """What a JSON string says; None for any other JSON."""
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.ValidationError:
        return None


def _was_down(facts: Sequence[AnyFact]) -> bool:
    """Whether a message never got through: one that did later finds the broker up."""
    last = {fact.part: fact for fact in facts if _is_of_a_message(fact)}
    sent = {f"@{fact.position}" for fact in facts if isinstance(fact, Passed)}
    return any(fact.final is True or part not in sent for part, fact in last.items())


def _is_of_a_message(fact: AnyFact) -> TypeGuard[StepFailed]:
    """Whether it says that the broker did not take a message; such a step has the number 0."""
    return isinstance(fact, StepFailed) and fact.step == 0 and fact.attempt > 0


def _masked(mock: Mock, mask: Mask) -> Mock:
    return msgspec.structs.replace(
        mock,
        body=_masked_body(mock.body, mask),
        headers=tuple((name, mask.header(name, value)) for name, value in mock.headers),
    )


def _masked_body(body: Said, mask: Mask) -> Said:
    """Bytes stay as they are: no secret of a text is in them."""
    return body if body.text is UNSET else Said(mask.text(body.text))


def _without_repeats(mocks: Iterable[Mock]) -> list[Mock]:
    """The last reply of a request answers again and again, so the same ones before it can go."""
    by_request: dict[Selector, list[Mock]] = {}
    for mock in mocks:
        by_request.setdefault(mock.on, []).append(mock)
    found: list[Mock] = []
    for answers in by_request.values():
        while len(answers) > 1 and answers[-1] == answers[-2]:
            answers.pop()
        found += answers
    return found


def _mocks(facts: Sequence[TimedFact], flow: str | None) -> Iterator[Mock]:
    """The answer of each attempt of each request, in order. ``flow`` is given for a sub-flow."""
    failed: dict[str, StepFailed] = {}
    for timed in facts:
        fact = timed.fact
        if _is_failed_attempt(fact):
            name = name_of(fact.step, fact.part)
            if name in failed:
                yield _failing(name, failed[name], flow)
            failed[name] = fact
        elif isinstance(fact, (Finished, ElementFinished, Undone)):
            name = _name(fact)
            before = failed.pop(name, None)
            # A flow that goes on after an error finishes the step with the answer that failed it.
            if before is not None and not _is_the_same(before, fact):
                yield _failing(name, before, flow)
            if fact.status:  # without, no component was asked
                yield _answering(name, fact, flow)
    for name, fact in failed.items():
        yield _failing(name, fact, flow)


def _is_failed_attempt(fact: AnyFact) -> TypeGuard[StepFailed]:
    """Of a RUN there is none: its run has replies of its own."""
    if not isinstance(fact, StepFailed) or fact.attempt == 0:
        return False
    return fact.cause is not Cause.SUB_FLOW


def _name(fact: Finished | ElementFinished | Undone) -> str:
    if isinstance(fact, Undone):
        return undo_name(fact.step)
    return f"{fact.step}.{fact.element}" if isinstance(fact, ElementFinished) else str(fact.step)


def _is_the_same(before: StepFailed, fact: Finished | ElementFinished | Undone) -> bool:
    if before.answer is UNSET or before.cause is not Cause.STATUS:
        return False
    return fact.took_ms == 0 and before.answer.status == fact.status


def _selector(name: str, flow: str | None) -> Selector:
    """The request with this name, as it ends its Idempotency-Key."""
    if name.startswith("undo."):
        return Selector(call=int(name[5:]), flow=flow, undo=True)
    number, _, element = name.partition(".")
    return Selector(call=int(number), flow=flow, element=int(element) if element else None)


def _answering(name: str, fact: Finished | ElementFinished | Undone, flow: str | None) -> Mock:
    mock = Mock(_selector(name, flow), fact.status, delay_ms=round(fact.took_ms))
    if isinstance(fact, Undone):  # nobody reads what it was answered with
        return mock
    headers = fact.headers if isinstance(fact, Finished) else UNSET
    return msgspec.structs.replace(
        mock,
        body=_body(restored(fact.result, fact.data)),
        headers=() if headers is UNSET else tuple(headers.items()),
    )


def _body(result: StepResult) -> Said:
    if not isinstance(result, msgspec.Raw):
        return Said(data=result)
    text = _text_of(result)
    return Said(bytes(result).decode() if text is None else text)


def _failing(name: str, fact: StepFailed, flow: str | None) -> Mock:
    on, answer = _selector(name, flow), fact.answer
    if answer is UNSET:
        return Mock(on, fault=_FAULTS.get(fact.cause, Fault.BROKEN))
    headers = () if answer.location is UNSET else (("Location", answer.location),)
    body = Said("" if answer.begin is UNSET else answer.begin)
    return Mock(on, answer.status, body, headers)


_FAULTS: dict[Cause | UnsetType, Fault] = {
    Cause.TIMED_OUT: Fault.TIMEOUT,
    Cause.CONNECT_FAILED: Fault.REFUSED,
}


def _balancer(facts: Sequence[AnyFact], here: Here) -> BalancerMock:
    placed = next((fact for fact in facts if isinstance(fact, Placed)), None)
    if placed is None:
        return BalancerMock()
    if placed.cause is Cause.BALANCER_FAILED:
        return BalancerMock(fault=Fault.REFUSED)
    if placed.named is not UNSET:
        return BalancerMock(placed.named)
    return BalancerMock(None if placed.node in here else placed.node)


def _peers(facts: Sequence[AnyFact], here: Here) -> Iterator[PeerMock]:
    """What the node that it was offered to answered."""
    offered = any(isinstance(fact, Offered) for fact in facts)
    ends = next((fact for fact in facts if _ends_an_offer(fact, here)), None)
    if not offered or not isinstance(ends, (Placed, Settled)):
        return
    if ends.status is not UNSET:
        yield PeerMock(status=ends.status)
    elif ends.cause is Cause.PEER_UNREACHABLE:
        for _ in range(OFFER_TRIES):
            yield PeerMock(fault=Fault.REFUSED)
    elif ends.cause in (Cause.PLAIN_PEER, Cause.NO_RECEIPT):
        yield PeerMock(receipt=False)
    elif isinstance(ends, Placed) or ends.state is State.UNKNOWN:
        yield PeerMock(fault=Fault.TIMEOUT)


def _ends_an_offer(fact: AnyFact, here: Here) -> bool:
    return isinstance(fact, Settled) or (isinstance(fact, Placed) and fact.node in here)
