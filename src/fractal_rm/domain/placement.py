"""Placement policies: plain functions that choose where a run goes.

    sender placed it here      ──> here
    no balancer configured     ──> here
    balancer's answer:
      null, or our own id      ──> here
      a node in nodes.conf     ──> there, unless that node cannot run the flow (`fits`)
      any other id             ──> here
    balancer failed            ──> here

Each place has a reason and a cause, which are kept with the run. ``engine/place.py`` chooses the
policy. A new one is a function in this file that returns a `Place`. If it must ask something
outside, it gets a port in ``engine/ports`` and an adapter, as the balancer has.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.domain.cause import Cause

MAX_NAMED_LENGTH = 200  # characters kept of a node id that nodes.conf does not have


class Here(msgspec.Struct, frozen=True):
    """Run it on this node. ``named``: the id that the balancer gave instead."""

    reason: str
    cause: Cause
    named: str | UnsetType = UNSET


class There(msgspec.Struct, frozen=True):
    """Offer it to the node with this id."""

    node: str
    reason: str
    cause: Cause


Place = Union[Here, There]

PLACED_BY_SENDER = Here("the sender had placed it here", Cause.BY_SENDER)
NO_BALANCER = Here("no balancer is configured", Cause.NO_BALANCER)
_BALANCER_CHOSE_HERE = Here("the balancer said here", Cause.BALANCER)


def place_by_balancer(answer: str | None, known: Collection[str], own_id: str | None) -> Place:
    """Follow the balancer. ``answer`` is the id of a node, or None for here."""
    if answer is None:
        return _BALANCER_CHOSE_HERE
    if answer == own_id:
        why = f"the balancer named node {answer}, which is this one"
        return Here(why, Cause.BALANCER, answer)
    if answer not in known:
        why = f"the balancer named node {answer!r:.60}, which nodes.conf does not have"
        return Here(why, Cause.UNKNOWN_NODE, answer[:MAX_NAMED_LENGTH])
    return There(answer, f"the balancer named node {answer}", Cause.BALANCER)


def balancer_failed(why: str) -> Here:
    """Do without a balancer that gave no usable answer."""
    return Here(f"the balancer failed: {why}", Cause.BALANCER_FAILED)


def replace_if_unfit(place: There, peer: str | None, flow_id: str, *, ours: bool) -> Place:
    """The same place, or here where the node cannot run the flow; see `cannot_run`."""
    why = reason_not_to_offer(peer, flow_id, ours=ours)
    if why is None:
        return place
    return Here(f"node {place.node} {why}", Cause.UNFIT_PEER, place.node)


def reason_not_to_offer(peer: str | None, flow_id: str, *, ours: bool) -> str | None:
    """Why a flow is not offered to a peer, or None. ``peer`` is what nodes.conf says that it is.

    ``ours``: it is known to be a node of this program. Any other peer may be an original, which
    finds a flow by the first character of its id, and answers 200 where it finds none.
    """
    if ours or len(flow_id) == 1:
        return None
    if peer == "original":
        return f"is an original, which cannot run flow {flow_id}"
    return f"is unknown (nodes.conf says no peer), and an original cannot run flow {flow_id}"
