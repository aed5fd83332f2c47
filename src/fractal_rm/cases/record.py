"""Makes a case from a real run.

The facts of the run contain the replies, but not the requests. So the case is run once, and its
requests become the expected requests. Secrets in the replies are masked before the case is run, so
that the expected requests contain no secrets either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import UNSET

from fractal_rm.cases.judge import Difference, differences
from fractal_rm.cases.mocked_replies import ComponentCall
from fractal_rm.cases.model import (
    Body,
    Case,
    Expected,
    ExpectedCall,
    ExpectedMessage,
    Selector,
    body_from_bytes,
)
from fractal_rm.cases.play import PlayedRun, TriggerRefused, play
from fractal_rm.cases.recorded_replies import case_with_replies
from fractal_rm.config.model import Config
from fractal_rm.config.secrets import secrets_of
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.expression import Value
from fractal_rm.domain.facts import Accepted, Placed, StepFailed
from fractal_rm.domain.flow import Call, CallOptions, Flow, flow_version
from fractal_rm.domain.masking.secrets import SecretMask
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import RunDetail

NamedValues = tuple[tuple[str, Value], ...]


class CannotRecord(FractalError):
    """It is not possible to make a case from a run. The text gives the reason."""

    code = "cannot-record"


class RecordedCase(msgspec.Struct, frozen=True):
    """A case that was made from a recorded run.

    ``notes`` say why the case may differ from the recorded run. ``differences`` lists how a run of
    the case differs from the recorded run.
    """

    case: Case
    notes: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()


def record_case(
    detail: RunDetail, config: Config, name: str | None = None, children: Sequence[RunDetail] = ()
) -> RecordedCase:
    """Make a case from a run that has ended. ``children`` are the runs of its sub-flows.

    Raises CannotRecord if the run has not ended, or if its facts or its flow are missing.
    """
    accepted = _accepted_fact(detail)
    flow = config.flows.get(accepted.flow)
    if flow is None:
        raise CannotRecord(f"flows.conf no longer has flow {accepted.flow}")
    name = name or f"run {detail.summary.id} of flow {flow.id}"
    without_expectations = case_with_replies(
        detail, accepted, SecretMask(secrets_of(config)), children, name
    )
    played = play(without_expectations, config)
    if isinstance(played, TriggerRefused):
        raise CannotRecord(f"the trigger of the run would now be refused: {played.reason}")
    expected = _expected(detail, config, played)
    case = msgspec.structs.replace(without_expectations, expected=expected)
    return RecordedCase(
        case, tuple(_notes(detail, flow, accepted)), tuple(differences(case, played))
    )


def _notes(detail: RunDetail, flow: Flow, accepted: Accepted) -> Iterator[str]:
    if flow_version(flow) != accepted.version:
        yield f"flow {flow.id} has changed since this run"
    facts = [timed.fact for timed in detail.facts]
    if any(isinstance(fact, (Placed, StepFailed)) and fact.cause is UNSET for fact in facts):
        yield "an older release recorded this run without causes: check the faults in the replies"


def _accepted_fact(detail: RunDetail) -> Accepted:
    run = detail.summary
    if not run.state.final:
        raise CannotRecord(f"run {run.id} has not ended: it is {run.state.value}")
    if not detail.facts:
        raise CannotRecord(
            "the facts of this run were dropped for their age; see history.max_age_s"
        )
    first = detail.facts[0].fact
    if not isinstance(first, Accepted):
        raise CannotRecord(f"{run.id} is a message that never became a run: {run.reason}")
    return first


def _expected(detail: RunDetail, config: Config, played: PlayedRun) -> Expected:
    run = detail.summary
    messages = [
        ExpectedMessage(each.topic, body_from_bytes(each.body)) for each in played.published
    ]
    return Expected(
        state=run.state,
        reason=_reason(run.state, run.reason, played.reason),
        node=run.node if run.state is State.HANDED_OFF else None,
        reply=_reply(played) if run.state is State.SUCCEEDED else UNSET,
        calls=tuple(_call(component_call, run.flow, config) for component_call in played.calls),
        published=tuple(messages) or None,
    )


def _reason(state: State, recorded: str, played: str) -> str | None:
    """The recorded reason up to the first word in which the reason of the case's run differs.

    The rest may depend on the machine: an address, a time, or the id of a run.
    """
    if state is State.SUCCEEDED or not recorded:
        return None
    if recorded == played:
        return recorded
    same_words: list[str] = []
    for recorded_word, played_word in zip(recorded.split(" "), played.split(" "), strict=False):
        if recorded_word != played_word:
            break
        same_words.append(recorded_word)
    return " ".join(same_words).rstrip(":,") or None


def _reply(played: PlayedRun) -> str:
    """The expected reply. If it is not a text, it is given as JSON, because TOML has no null."""
    reply = msgspec.json.decode(played.reply)
    return reply if isinstance(reply, str) else bytes(played.reply).decode()


def _call(component_call: ComponentCall, own_flow: str | None, config: Config) -> ExpectedCall:
    """The expected request, with only the headers and parameters that the flow sets.

    Headers from the configuration are left out, because they may contain secrets.
    """
    request = component_call.request
    options = _call_options(component_call, config)
    return ExpectedCall(
        selector=Selector(
            component=component_call.to.component,
            endpoint=component_call.to.endpoint,
            call=request.number,
            flow=None if component_call.flow == own_flow else component_call.flow,
            element=request.element or None,
            undo=request.undo or None,
        ),
        method=request.method,
        body=Body() if request.body is None else body_from_bytes(request.body),
        headers=_set_by_flow(options.headers, request.headers),
        query=_set_by_flow(options.query, request.query),
    )


def _set_by_flow(names: NamedValues, sent: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the headers or parameters in ``names``, with the values that were sent."""
    pairs = [(name, sent.get(name, sent.get(name.lower()))) for name, _ in names]
    return tuple((name, value) for name, value in pairs if value is not None)


def _call_options(component_call: ComponentCall, config: Config) -> CallOptions:
    """The options that the flow gives for a call. An undo has the default options."""
    flow, request = config.flows.get(component_call.flow), component_call.request
    if flow is None or request.undo:
        return CallOptions()
    for step in flow.steps:
        if isinstance(step, Call) and step.number == request.number and step.options is not UNSET:
            return step.options
    return CallOptions()
