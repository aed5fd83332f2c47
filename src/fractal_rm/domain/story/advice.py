"""What can be done about a run now, as commands of this program."""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import (
    Accepted,
    Discarded,
    Offered,
    OfferInDoubt,
)
from fractal_rm.domain.state import State
from fractal_rm.domain.story.values import Advice, RunToTell
from fractal_rm.domain.story.why import cause_of, last


def advice(told: RunToTell) -> list[Advice]:
    """What can be done about a run now; the most useful first."""
    if told.repeated_by:
        newest = told.repeated_by[-1]
        return [Advice("see how the repeated run ended", ("runs", "why", newest))]
    if last(told, Discarded) is not None:
        return []
    return _BY_STATE.get(told.state, _nothing)(told)


def _nothing(told: RunToTell) -> list[Advice]:  # noqa: ARG001 - as the others
    return []


def _open(told: RunToTell) -> list[Advice]:
    here = told.here
    if here.is_running is False:
        return [Advice("start the node", (told.journal,))]
    found: list[Advice] = []
    if here.paused:
        found.append(Advice("let runs begin again", ("resume",)))
    return found


def _offered(told: RunToTell) -> list[Advice]:
    offered, doubt = last(told, Offered), last(told, OfferInDoubt)
    if told.here.is_running is False:
        return [Advice("start the node", (told.journal,))]
    if doubt is None or offered is None:
        return []
    run = told.id
    return [
        Advice("see whether the other node can be reached", ("nodes",)),
        Advice(f"look for the run on node {offered.node}: run there `fractal-rm runs why {run}`"),
        Advice("only if it has the run: the run ends here", ("runs", "resolve", run, "--taken")),
        Advice(
            "only if it does not have the run: execute it here",
            ("runs", "resolve", run, "--run-here"),
        ),
    ]


def _parked(told: RunToTell) -> list[Advice]:  # noqa: ARG001 - as the others
    return [
        Advice("release all parked runs, if they may still be executed", ("resume", "--parked"))
    ]


def _failed(told: RunToTell) -> list[Advice]:
    parent = _parent(told)
    if parent is not None:
        return [Advice("look at the run that started this one", ("runs", "why", parent))]
    return _look(told)


def _look(told: RunToTell) -> list[Advice]:
    """What helps to find the fault."""
    cause, run = cause_of(told), told.id
    found: list[Advice] = []
    if cause is Cause.CANNOT_EVALUATE or cause is Cause.NOT_EXPECTED:
        found.append(Advice("see the payload and all results", ("runs", "show", run)))
    if cause is Cause.NOT_CONFIGURED:
        found.append(Advice("see whether the files have an error", ("check",)))
    if cause is Cause.CANNOT_EVALUATE:
        words = ("runs", "record", run, "--into", "flows.cases.toml")
        found.append(Advice("make a test case of it, so that the flow can be mended", words))
    return found


def _parent(told: RunToTell) -> str | None:
    first = told.facts[0][1] if told.facts else None
    if isinstance(first, Accepted) and first.origin is not UNSET:
        return first.origin.rpartition(":")[0]
    return None


_BY_STATE = {
    State.ACCEPTED: _open,
    State.RUNNING: _open,
    State.OFFERED: _offered,
    State.PARKED: _parked,
    State.FAILED: _failed,
    State.EXPIRED: _failed,
    State.UNKNOWN: _look,
    State.DEAD: _look,
}
