"""The placement of a run as lines: who was asked, what was said, when, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import (
    Accepted,
    Finished,
    Offered,
    OfferInDoubt,
    Placed,
    Received,
    RequestStarted,
    Settled,
    StepFailed,
    StepPassed,
    WaitStarted,
)
from fractal_rm.domain.plain_name import plain_name
from fractal_rm.domain.state import State
from fractal_rm.domain.story.placing import is_here
from fractal_rm.domain.story.values import RunToTell
from fractal_rm.domain.story.words import cut, duration

Lines = list[tuple[str, str]]
MAX_LINES = 40  # of a run that was offered again and again, the newest lines are shown
_BY_BALANCER = (Cause.BALANCER, Cause.BALANCER_FAILED, Cause.UNKNOWN_NODE, Cause.UNFIT_PEER)
_ASKED_NOBODY = {
    Cause.BY_SENDER: "nobody: the sender chose this node",
    Cause.NO_BALANCER: "nobody: no balancer is configured",
    Cause.PARENT: "nobody: a run of a sub-flow is executed where its parent is",
    Cause.RETURNED: "nobody: the node that had the run was drained, and has returned it",
    Cause.DRAINED: "nobody: this node is drained",
    Cause.OPERATOR: "nobody: an operator decided it",
}
_BEGINS = (RequestStarted, Finished, StepFailed, WaitStarted, StepPassed)


def placing_lines(told: RunToTell) -> Lines:
    """The placement of a run: pairs of a name, such as ``asked``, and a text. Empty: not placed."""
    return list(_lines(told))[-MAX_LINES:]


def _lines(told: RunToTell) -> Iterator[tuple[str, str]]:
    offered: Offered | None = None
    for index, (at_ms, fact) in enumerate(told.facts):
        match fact:
            case Received():
                yield "handed off", f"by node {fact.sender}" if fact.sender else "by another node"
            case Placed() if offered is not None:
                yield "came of it", _refused(fact)
                yield "placed", f"here, {told.clock(at_ms)}"
                offered = None
            case Placed():
                yield from _placed(told, index, at_ms, fact)
            case Offered():
                offered = fact
                yield "offered", f"to node {fact.node}, {told.clock(at_ms)}"
            case OfferInDoubt():
                yield "in doubt", f"{cut(fact.reason)}; the node is asked again"
            case Settled() if offered is not None:
                is_taken = fact.state is State.HANDED_OFF
                yield (
                    "came of it",
                    f"node {offered.node} has the run" if is_taken else cut(fact.reason),
                )
            case _:
                pass


def _placed(told: RunToTell, index: int, at_ms: int, fact: Placed) -> Iterator[tuple[str, str]]:
    waited = duration(max(0, at_ms - told.accepted_ms))
    cause = None if fact.cause is UNSET else fact.cause
    if cause in _BY_BALANCER:
        yield "asked", f"the balancer, when the turn of the run came: {waited} after its acceptance"
        yield "said", _said(fact, _own_id(told))
    elif cause is not None and cause in _ASKED_NOBODY:
        yield "asked", _ASKED_NOBODY[cause]
    here = is_here(fact, told)
    where = "here" if here else f"node {fact.node}"
    yield "placed" if here else "chosen", f"{where}, {told.clock(at_ms)}"
    if cause is Cause.UNFIT_PEER:
        yield "because", cut(fact.reason)
    if cause in _BY_BALANCER and here:
        begun_ms = _begun_ms(told, index)
        if begun_ms is not None:
            age = duration(max(0, begun_ms - at_ms))
            yield "first step", f"it began {age} after the answer"


def _said(fact: Placed, own_id: str | None) -> str:
    if fact.cause is Cause.BALANCER_FAILED:
        return cut(fact.reason)
    if fact.named_node is not UNSET:
        known = "which is this node" if fact.cause is Cause.BALANCER else "nodes.conf lacks it"
        return f"node {plain_name(fact.named_node)}: {known}"
    if fact.cause is not Cause.BALANCER:
        return cut(fact.reason)
    return "this node" if fact.node in (None, own_id) else f"node {fact.node}"


def _refused(fact: Placed) -> str:
    twice = "; it may have executed the run, too" if fact.maybe_twice is True else ""
    return f"{cut(fact.reason)}{twice}"


def _begun_ms(told: RunToTell, index: int) -> float | None:
    """When the first step began after a fact; None: no step has a fact yet."""
    for at_ms, fact in told.facts[index + 1 :]:
        if isinstance(fact, _BEGINS):
            return at_ms - (fact.took_ms if isinstance(fact, Finished) else 0)
    return None


def _own_id(told: RunToTell) -> str | None:
    first = told.facts[0][1] if told.facts else None
    return first.node if isinstance(first, Accepted) and first.node is not UNSET else None
