"""A case from a run that has happened: its facts say what the world answered.

What facts do not hold, the requests above all, is derived: the case is run, and what it sends then
is what it is to send from then on. Secrets are masked before that, so the case holds together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

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
from fractal_rm.domain.flow import Call, Flow, flow_version
from fractal_rm.domain.placement import OFFER_TRIES
from fractal_rm.domain.run import (
    Accepted,
    AnyFact,
    Finished,
    Offered,
    Placed,
    Settled,
    State,
    StepFailed,
)
from fractal_rm.engine.ports import RunDetail, TimedFact

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
    expected = _expected(detail, flow, came)
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
    replies = [*_mocks(detail.facts, None)]
    for child in children:
        replies += _mocks(child.facts, child.summary.flow)
    payload = mask.value(msgspec.json.decode(accepted.payload))
    return Case(
        name=name or f"run {detail.summary.id} of flow {accepted.flow}",
        flow=accepted.flow,
        payload=msgspec.json.encode(payload),
        placed=accepted.placed or accepted.source == "peer",
        start_ms=detail.summary.accepted_ms,
        replies=tuple(_masked(mock, mask) for mock in _without_repeats(replies)),
        balancer=_balancer(facts),
        peers=tuple(_peers(facts)),
    )


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
    """The answer of each attempt, in order."""
    failed: dict[int, StepFailed] = {}
    for timed in facts:
        fact = timed.fact
        if isinstance(fact, StepFailed):
            if fact.step in failed:
                yield _failing(failed[fact.step], flow)
            failed[fact.step] = fact
        elif isinstance(fact, Finished):
            before = failed.pop(fact.step, None)
            # A flow that goes on after an error finishes the step with the answer that failed it.
            if before is not None and not (fact.status and _failed_with(before, fact)):
                yield _failing(before, flow)
            if fact.status:
                yield _answering(fact, flow)
    for fact in failed.values():
        yield _failing(fact, flow)


def _failed_with(before: StepFailed, fact: Finished) -> bool:
    return fact.took_ms == 0 and before.reason.startswith(f"status {fact.status}")


def _answering(fact: Finished, flow: str | None) -> Mock:
    text = msgspec.json.decode(fact.result)
    headers = {} if fact.headers is UNSET else fact.headers
    return Mock(
        on=Selector(call=fact.step, flow=flow),
        status=fact.status,
        body=Said(text if isinstance(text, str) else fact.result.decode()),
        headers=tuple(headers.items()),
        delay_ms=round(fact.took_ms),
    )


def _failing(fact: StepFailed, flow: str | None) -> Mock:
    on = Selector(call=fact.step, flow=flow)
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


def _expected(detail: RunDetail, flow: Flow, came: Observed) -> Expected:
    run = detail.summary
    return Expected(
        state=run.state,
        reason=_reason(run.state, run.reason, came.reason),
        node=run.node if run.state is State.HANDED_OFF else None,
        reply=_reply(came) if run.state is State.SUCCEEDED else UNSET,
        calls=tuple(_call(called, flow) for called in came.calls),
        published=tuple(ExpectedMessage(m.topic, Said(m.body.decode())) for m in came.published)
        or None,
    )


def _reason(state: State, said: str, came: str) -> str | None:
    """As much of the run's reason as the case comes to: addresses and times are not its matter."""
    if state is State.SUCCEEDED or not said:
        return None
    if said == came:
        return said
    alike = [a for a, b in zip(said.split(": "), came.split(": "), strict=False) if a == b]
    return ": ".join(alike) if alike and came.startswith(": ".join(alike)) else None


def _reply(came: Observed) -> str:
    reply = msgspec.json.decode(came.reply)
    return reply if isinstance(reply, str) else bytes(came.reply).decode()


def _call(called: Called, flow: Flow) -> ExpectedCall:
    request = called.request
    own = called.flow == flow.id
    on = Selector(
        component=called.to.component,
        endpoint=called.to.endpoint,
        call=request.number,
        flow=None if own else called.flow,
        element=request.element or None,
        undo=request.undo or None,
    )
    return ExpectedCall(
        on=on,
        method=request.method,
        body=Said() if request.body is None else Said(request.body.decode()),
        headers=_told_headers(called, flow) if own else (),
        query=tuple(request.query.items()) if own and _tells_query(called, flow) else (),
    )


def _told_headers(called: Called, flow: Flow) -> tuple[tuple[str, str], ...]:
    """Those that the flow itself adds: the configuration's may hold secrets."""
    call = _of(called, flow)
    if call is None or call.terms is UNSET:
        return ()
    named = [(name, called.request.headers.get(name.lower())) for name, _ in call.terms.headers]
    return tuple((name, value) for name, value in named if value is not None)


def _tells_query(called: Called, flow: Flow) -> bool:
    call = _of(called, flow)
    return call is not None and call.terms is not UNSET and bool(call.terms.query)


def _of(called: Called, flow: Flow) -> Call | None:
    number = called.request.number
    found = (step for step in flow.steps if isinstance(step, Call) and step.number == number)
    return None if called.request.undo else next(found, None)
