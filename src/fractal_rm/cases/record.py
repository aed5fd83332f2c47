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
from fractal_rm.cases.heard import heard
from fractal_rm.cases.judge import Difference, differences
from fractal_rm.cases.model import (
    Case,
    Expected,
    ExpectedCall,
    ExpectedMessage,
    Said,
    Selector,
    said_in,
)
from fractal_rm.cases.play import Observed, TriggerRefused, play
from fractal_rm.cases.secrets import Mask
from fractal_rm.config.model import Config
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.expression import Value
from fractal_rm.domain.facts import Accepted, Placed, StepFailed
from fractal_rm.domain.flow import Call, Flow, Terms, flow_version
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import RunDetail

_MARK = re.compile("(: |, )")  # between the parts of a reason

Names = tuple[tuple[str, Value], ...]


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
    name = name or f"run {detail.summary.id} of flow {flow.id}"
    told = heard(detail, accepted, Mask(config), children, name)
    came = play(told, config)
    if isinstance(came, TriggerRefused):
        raise CannotRecord(f"its trigger would be refused today: {came.reason}")
    expected = _expected(detail, config, came)
    case = msgspec.structs.replace(told, expected=expected)
    return Recorded(case, tuple(_notes(detail, flow, accepted)), tuple(differences(case, came)))


def _notes(detail: RunDetail, flow: Flow, accepted: Accepted) -> Iterator[str]:
    if flow_version(flow) != accepted.version:
        yield f"flow {flow.id} has changed since this run"
    facts = [timed.fact for timed in detail.facts]
    if any(isinstance(fact, (Placed, StepFailed)) and fact.cause is UNSET for fact in facts):
        yield "an older release wrote this run, without causes: see to the faults in its replies"


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


def _expected(detail: RunDetail, config: Config, came: Observed) -> Expected:
    run = detail.summary
    messages = [ExpectedMessage(each.topic, said_in(each.body)) for each in came.published]
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
    parts = zip(_MARK.split(said), _MARK.split(came), strict=False)
    alike = "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], parts))
    return alike.rstrip(":, ") or None


def _reply(came: Observed) -> str:
    """A text as it is, anything else as JSON: TOML has no null."""
    reply = msgspec.json.decode(came.reply)
    return reply if isinstance(reply, str) else bytes(came.reply).decode()


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
        body=Said() if request.body is None else said_in(request.body),
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
