"""Placement policies: plain functions that choose where a run goes.

    sender placed it here      ──> here
    no balancer configured     ──> here
    balancer's answer:
      null, or this node's id  ──> here
      a node in nodes.conf     ──> there, unless it cannot run the flow (`reason_not_to_offer`)
      any other id             ──> here
    balancer failed            ──> here

A drained node (`fractal-rm drain`) executes a run only if no other node takes it. It returns a
received run to its sender, and offers any other waiting run to the node that the balancer names,
then to each other node of nodes.conf.

Each place has a reason and a cause, which are stored with the run. ``engine/place.py`` chooses the
policy. To add a policy, write a function in this file that returns a `Place`. If the policy needs
an external service, add a port in ``engine/ports`` and an adapter, as for the balancer.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.plain_name import plain_name

MAX_NAMED_LENGTH = 200  # the maximum stored length of an id that is not in nodes.conf


class Here(msgspec.Struct, frozen=True):
    """Execute the run on this node. ``named_node`` is the id that the balancer named, if any."""

    reason: str
    cause: Cause
    named_node: str | UnsetType = UNSET


class There(msgspec.Struct, frozen=True):
    """Offer the run to the node with this id."""

    node: str
    reason: str
    cause: Cause


Place = Union[Here, There]

PLACED_BY_SENDER = Here("the sender placed the run here", Cause.BY_SENDER)
RETURNED = Here("the node that had the run has returned it", Cause.RETURNED)
REPEATED_HERE = Here("an operator has repeated the run on this node", Cause.OPERATOR)
NO_BALANCER = Here("no balancer is configured", Cause.NO_BALANCER)
_BALANCER_CHOSE_HERE = Here("the balancer chose this node", Cause.BALANCER)
# Reasons of runs on this node that say nothing special.
DULL_REASONS = frozenset(
    {place.reason for place in (PLACED_BY_SENDER, NO_BALANCER, _BALANCER_CHOSE_HERE)}
)


def place_by_balancer(answer: str | None, node_ids: Collection[str], own_id: str | None) -> Place:
    """The place that the balancer chose. ``answer`` is the id of a node, or None for this node.

    ``node_ids`` are the ids in nodes.conf.
    """
    if answer is None:
        return _BALANCER_CHOSE_HERE
    if answer == own_id:
        reason = f"the balancer named node {answer}, which is this node"
        return Here(reason, Cause.BALANCER, answer)
    if answer not in node_ids:
        reason = f"the balancer named node {plain_name(answer)}, which nodes.conf does not have"
        return Here(reason, Cause.UNKNOWN_NODE, answer[:MAX_NAMED_LENGTH])
    return There(answer, f"the balancer named node {answer}", Cause.BALANCER)


def return_to_sender(sender: str) -> There:
    """The place of a received run that a drained node returns."""
    reason = f"this node is drained: the run is returned to node {sender}"
    return There(sender, reason, Cause.RETURNED)


def away_from_here(node: str) -> There:
    """The place of a waiting run on a drained node, if the balancer names no other node."""
    return There(node, f"this node is drained: the run is offered to node {node}", Cause.DRAINED)


def place_away(
    sender: str | None,
    balancer_choice: Place | None,
    tried: Collection[str],
    node_ids: Collection[str],
    own_id: str | None,
) -> There | None:
    """The next node for a run of a drained node. None: no node is left to try.

    ``sender`` is the node from which the run was received, or None. ``balancer_choice`` is the
    place that the balancer chose, if it was asked. ``tried`` are the nodes that did not take it.
    """
    if sender is not None:
        place = return_to_sender(sender)
    elif isinstance(balancer_choice, There) and balancer_choice.node not in tried:
        place = balancer_choice
    else:
        others = (node for node in node_ids if node not in tried and node != own_id)
        place = next(map(away_from_here, others), None)
    if place is None or place.node in tried or place.node not in node_ids:
        return None
    return place


def balancer_failed(reason: str) -> Here:
    """The place if the balancer gave no usable answer: this node."""
    return Here(f"the balancer failed: {reason}", Cause.BALANCER_FAILED)


def reason_not_to_offer(peer: str | None, flow_id: str, *, runs_this_program: bool) -> str | None:
    """Why runs of a flow must not be offered to a peer. None if they may be offered.

    ``peer`` is the value of ``peer`` in nodes.conf. ``runs_this_program``: whether the peer is
    known to be a node of this program. Otherwise the peer may be an original, which looks up a flow
    by the first character of its id, and answers 200 even if it has no such flow.
    """
    if runs_this_program or len(flow_id) == 1:
        return None
    if peer == "original":
        return f"is an original, which cannot run flow {flow_id}"
    return f"runs another program, perhaps the original, which cannot run flow {flow_id}"
