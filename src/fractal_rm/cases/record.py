"""A case from a run that has happened: its facts say what the world answered.

What facts do not hold, the requests above all, is derived: the case is run, and what it sends then
is what it is to send from then on. Secrets are masked before that, so the case holds together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

import msgspec
from msgspec import UNSET

from fractal_rm.cases.answers import Called
from fractal_rm.cases.judge import Difference, differences
from fractal_rm.cases.model import (
    BalancerMock,
    Case,
    Expected,
    ExpectedCall,
    ExpectedMessage,
    Fault,
    Mock,
    PeerMock,
    Said,
    Selector,
)
from fractal_rm.cases.play import Observed, TriggerRefused, play
from fractal_rm.cases.secrets import Mask
from fractal_rm.config.model import Config
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.expression import Value
from fractal_rm.domain.flow import Call, Terms, flow_version
from fractal_rm.domain.placement import OFFER_TRIES
from fractal_rm.domain.run import (
    Accepted,
    AnyFact,
    ElementFinished,
    Finished,
    Offered,
    Placed,
    Settled,
    State,
    StepFailed,
    Undone,
    name_of,
    undo_name,
)
from fractal_rm.engine.ports import RunDetail, TimedFact

Names = tuple[tuple[str, Value], ...]

_NAMED = re.compile(r"the balancer named node '?([^',]+)'?")
_STATUS = re.compile(r"(?:not as expected: )?status (\d{3})(?:: (.*))?", re.DOTALL)
_PEER_STATUS = re.compile(r"node \S+ answered (\d{3})")


class CannotRecord(FractalError):
    """A run of which no case can be made, and why."""

    code = "cannot-record"


class Recorded(msgspec.Struct, frozen=True):
    """A case, and what about it differs from the run: it may not pass then, or say less."""

    case: Case
    notes: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()


def recorded(
    detail: RunDetail, config: Config, name: str | None = None, children: Sequence[RunDetail] = ()
) -> Recorded:
    """Make a case of a run that has ended. ``children`` are the runs that its RUNs began.

    Raises CannotRecord.
    """
    accepted = _accepted(detail)
    flow = config.flows.get(accepted.flow)
    if flow is None:
        raise CannotRecord(f"flows.conf no longer has flow {accepted.flow}")
    heard = _heard(detail, accepted, Mask(config), children, name)
    came = play(heard, config)
    if isinstance(came, TriggerRefused):
        raise CannotRecord(f"its trigger would be refused today: {came.reason}")
    expected = _expected(detail, config, came)
    case = msgspec.structs.replace(heard, expected=expected)
    notes = () if flow_version(flow) == accepted.version else (_CHANGED % flow.id,)
    return Recorded(case, notes, tuple(differences(case, came)))


_CHANGED = "flow %s has changed since this run"


def _accepted(detail: RunDetail) -> Accepted:
    run = detail.summary
    if not run.state.final:
        raise CannotRecord(f"run {run.id} has not ended: it is {run.state.value}")
    if not detail.facts:
        raise CannotRecord("its facts were dropped for their age; see history.max_age_s")
    first = detail.facts[0].fact
    if not isinstance(first, Accepted):
        raise CannotRecord(f"{run.id} is a message that never became a run: {run.reason}")
    return first


# --- what the world answered ------------------------------------------------------------------


def _heard(
    detail: RunDetail,
    accepted: Accepted,
    mask: Mask,
    children: Sequence[RunDetail],
    name: str | None,
) -> Case:
    facts = [timed.fact for timed in detail.facts]
    of_calls = [timed for timed in detail.facts if not _is_of_a_message(timed.fact)]
    replies = list(_mocks(of_calls, None))
    for child in children:
        of_calls = [timed for timed in child.facts if not _is_of_a_message(timed.fact)]
        replies += _mocks(of_calls, child.summary.flow)
    if detail.summary.state is State.EXPIRED:  # what was under way then was never answered
        replies.append(Mock(fault=Fault.TIMEOUT))
    return Case(
        name=name or f"run {detail.summary.id} of flow {accepted.flow}",
        flow=accepted.flow,
        payload=_masked_json(accepted.payload, mask),
        placed=accepted.placed or accepted.source == "peer",
        deadline_ms=None if accepted.budget_ms is UNSET else max(1, accepted.budget_ms),
        broker_down=any(map(_is_of_a_message, facts)),
        start_ms=detail.summary.accepted_ms,
        replies=tuple(_masked(mock, mask) for mock in _without_repeats(replies)),
        balancer=_balancer(facts),
        peers=tuple(_peers(facts)),
    )


def _masked_json(raw: msgspec.Raw, mask: Mask) -> bytes:
    """JSON text, letter for letter as it was where it holds no secret."""
    value = msgspec.json.decode(raw)
    if isinstance(value, str):
        return msgspec.json.encode(mask.text(value))
    return mask.text(bytes(raw).decode()).encode()


def _is_of_a_message(fact: AnyFact) -> bool:
    """Whether it says that the broker did not take a message; such a step has the number 0."""
    return isinstance(fact, StepFailed) and fact.step == 0


def _masked(mock: Mock, mask: Mask) -> Mock:
    return msgspec.structs.replace(
        mock,
        body=Said(mask.text(mock.body.as_text())),
        headers=tuple((name, mask.header(name, value)) for name, value in mock.headers),
    )


def _without_repeats(mocks: Sequence[Mock]) -> list[Mock]:
    """The last reply of a request answers again and again, so the same ones before it can go."""
    found: list[Mock] = []
    for mock in mocks:
        last_of = [each for each in found if each.on == mock.on]
        later = [each for each in mocks if each.on == mock.on]
        if not (last_of and last_of[-1] == mock and all(each == mock for each in later)):
            found.append(mock)
    return found


def _mocks(facts: Sequence[TimedFact], flow: str | None) -> Iterator[Mock]:
    """The answer of each attempt of each request, in order. ``flow`` is given for a sub-flow."""
    failed: dict[str, StepFailed] = {}
    for timed in facts:
        fact = timed.fact
        if isinstance(fact, StepFailed) and not fact.reason.startswith(_OF_A_CHILD):
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


_OF_A_CHILD = "its run "


def _name(fact: Finished | ElementFinished | Undone) -> str:
    if isinstance(fact, Undone):
        return undo_name(fact.step)
    return f"{fact.step}.{fact.element}" if isinstance(fact, ElementFinished) else str(fact.step)


def _is_the_same(before: StepFailed, fact: Finished | ElementFinished | Undone) -> bool:
    return (
        bool(fact.status)
        and fact.took_ms == 0
        and before.reason.startswith(f"status {fact.status}")
    )


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
    text = msgspec.json.decode(fact.result)
    headers = fact.headers if isinstance(fact, Finished) else UNSET
    return msgspec.structs.replace(
        mock,
        body=Said(text if isinstance(text, str) else bytes(fact.result).decode()),
        headers=() if headers is UNSET else tuple(headers.items()),
    )


def _failing(name: str, fact: StepFailed, flow: str | None) -> Mock:
    on = _selector(name, flow)
    status = _STATUS.match(fact.reason)
    if status is not None:
        return Mock(on, int(status[1]), Said(status[2] or ""))
    return Mock(on, fault=_fault(fact.reason))


def _fault(reason: str) -> Fault | None:
    """Which of the faults a reason speaks of; none where the answer was not as expected."""
    if reason.endswith("within the time limit"):
        return Fault.TIMEOUT
    if reason.startswith("EXPECT:"):
        return None
    return Fault.REFUSED if re.match(r"https?://", reason) else Fault.BROKEN


def _balancer(facts: Sequence[AnyFact]) -> BalancerMock:
    placed = next((fact for fact in facts if isinstance(fact, Placed)), None)
    if placed is None:
        return BalancerMock()
    if placed.reason.startswith("the balancer did not help"):
        return BalancerMock(fault=Fault.REFUSED)
    named = _NAMED.match(placed.reason)
    return BalancerMock(placed.node or (named[1] if named else None))


def _peers(facts: Sequence[AnyFact]) -> Iterator[PeerMock]:
    """What the node that it was offered to answered."""
    offered = next((fact for fact in facts if isinstance(fact, Offered)), None)
    if offered is None:
        return
    home = next((f for f in facts if isinstance(f, Placed) and f.node is None), None)
    if home is None:
        if any(isinstance(f, Settled) and "as a plain peer" in f.reason for f in facts):
            yield PeerMock(receipt=False)
        return
    status = _PEER_STATUS.match(home.reason)
    if status is not None:
        yield PeerMock(status=int(status[1]))
        return
    fault = Fault.REFUSED if "could not be reached" in home.reason else Fault.TIMEOUT
    for _ in range(OFFER_TRIES):
        yield PeerMock(fault=fault)


# --- what it did ------------------------------------------------------------------------------


def _expected(detail: RunDetail, config: Config, came: Observed) -> Expected:
    run = detail.summary
    messages = [ExpectedMessage(each.topic, Said(_decoded(each.body))) for each in came.published]
    return Expected(
        state=run.state,
        reason=_reason(run.state, run.reason, came.reason),
        node=run.node if run.state is State.HANDED_OFF else None,
        reply=_reply(came) if run.state is State.SUCCEEDED else UNSET,
        calls=tuple(_call(called, run.flow, config) for called in came.calls),
        published=tuple(messages) or None,
    )


def _reason(state: State, said: str, came: str) -> str | None:
    """As much of the run's reason as the case comes to: addresses and times are not its matter."""
    if state is State.SUCCEEDED or not said:
        return None
    if said == came:
        return said
    parts = zip(said.split(": "), came.split(": "), strict=False)
    alike = ": ".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], parts))
    return alike or None


def _reply(came: Observed) -> str:
    """A text as it is, anything else as JSON: TOML has no null."""
    reply = msgspec.json.decode(came.reply)
    return reply if isinstance(reply, str) else _decoded(bytes(came.reply))


def _decoded(body: bytes) -> str:
    return body.decode("utf-8", "replace")


def _call(called: Called, own: str | None, config: Config) -> ExpectedCall:
    """A request as it is to be made again. Of headers and parameters, those of the flow itself.

    Those of the configuration may hold secrets.
    """
    request = called.request
    terms = _terms(called, config)
    return ExpectedCall(
        on=Selector(
            component=called.to.component,
            endpoint=called.to.endpoint,
            call=request.number,
            flow=None if called.flow == own else called.flow,
            element=request.element or None,
            undo=request.undo or None,
        ),
        method=request.method,
        body=Said() if request.body is None else Said(_decoded(request.body)),
        headers=_of_flow(terms.headers, request.headers),
        query=_of_flow(terms.query, request.query),
    )


def _of_flow(said: Names, sent: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What was sent under the names that a flow says, whose values a case can hold."""
    found = [(name, sent.get(name, sent.get(name.lower()))) for name, _ in said]
    return tuple((name, value) for name, value in found if value is not None)


def _terms(called: Called, config: Config) -> Terms:
    """What the flow says of a call; nothing where it is an undo."""
    flow, number = config.flows.get(called.flow), called.request.number
    for step in () if flow is None or called.request.undo else flow.steps:
        if isinstance(step, Call) and step.number == number and step.terms is not UNSET:
            return step.terms
    return Terms()
