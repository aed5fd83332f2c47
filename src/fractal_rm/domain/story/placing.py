"""Sentences about where a run came from, and where it was placed."""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Accepted, Placed
from fractal_rm.domain.plain_name import plain_name
from fractal_rm.domain.story.values import RunToTell
from fractal_rm.domain.story.words import cut, duration, size

_SENDERS = {
    "mqtt": "A message by MQTT",
    "rest": "A request by REST",
    "peer": "Another node",
    "command": "A try, in the browser or by the command `flows try`,",
    "schedule": "The schedule of the flow (EVERY or CRON)",
}


def arrival(fact: Accepted, told: RunToTell) -> str:
    """Where a run came from."""
    payload = f"with a payload of {size(_payload_size(fact))}"
    flow = f"flow {fact.flow}"
    if fact.replays is not UNSET:
        by = "An operator" if fact.actor is UNSET else fact.actor
        begin = f"{by} repeated run {fact.replays} as this run"
        if fact.from_step is not UNSET:
            begin += f", from step {fact.from_step} on"
        text = f"{begin}: {flow}, {payload}."
    elif fact.origin is not UNSET:
        parent, _, step = fact.origin.rpartition(":")
        text = f"Step {step} of run {parent} started this run of {flow}, {payload}."
    else:
        sender = _SENDERS.get(fact.source, f"A sender ({fact.source})")
        text = f"{sender} started the run of {flow}, {payload}."
    text += f' It was written to the journal "{told.journal}".'
    if fact.budget_ms is not UNSET:
        text += f" It must end within {duration(fact.budget_ms)}."
    return text


def _payload_size(fact: Accepted) -> int:
    return len(fact.payload) if fact.omitted is UNSET else fact.omitted.size


def is_here(fact: Placed, told: RunToTell) -> bool:
    """Whether a run was placed on the node that has its facts."""
    return fact.node is None or fact.node == _own_id(told)


def placement(fact: Placed, told: RunToTell, *, after_offer: bool) -> tuple[str, bool]:
    """Where a run was placed and why, and whether that is a problem."""
    here = is_here(fact, told)
    if after_offer and here:
        return _back_here(fact), fact.maybe_twice is True
    cause = None if fact.cause is UNSET else fact.cause
    text = _WHY_HERE.get(cause) if here and cause is not None else None
    if cause is Cause.BALANCER and here and fact.named_node is not UNSET:
        text = f"the balancer was asked, and named node {fact.named_node}, which is this node"
    elif cause is Cause.UNKNOWN_NODE and fact.named_node is not UNSET:
        text = (
            f"the balancer was asked, and named node {plain_name(fact.named_node)}, which"
            " nodes.conf does not have"
        )
    elif text is None or cause is Cause.BALANCER_FAILED:
        text = cut(fact.reason)
    begin = "was placed here" if here else f"is to be executed on node {fact.node}"
    is_problem = cause in (Cause.BALANCER_FAILED, Cause.UNKNOWN_NODE, Cause.UNFIT_PEER)
    return f"The run {begin}: {text}.", is_problem


_WHY_HERE = {
    Cause.BY_SENDER: "the sender chose this node, so the balancer was not asked",
    Cause.NO_BALANCER: "no balancer is configured",
    Cause.BALANCER: "the balancer was asked, and chose this node",
    Cause.BALANCER_FAILED: "",
    Cause.PARENT: "the run that started it is executed here",
    Cause.RETURNED: "the node that had the run was drained, and has returned it",
}


def _back_here(fact: Placed) -> str:
    twice = ""
    if fact.maybe_twice is True:
        twice = " So some of its calls may be made twice."
    by = "" if fact.actor is UNSET else f" {fact.actor} decided it."
    return f"The run is executed here after all: {cut(fact.reason)}.{twice}{by}"


def _own_id(told: RunToTell) -> str | None:
    for _, fact in told.facts:
        if isinstance(fact, Accepted):
            return None if fact.node is UNSET else fact.node
    return None
