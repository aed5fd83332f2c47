"""The decisions of the node that gets an offer."""

from __future__ import annotations

import msgspec

from fractal_rm.domain.facts import Finished, StepPassed
from fractal_rm.domain.flow import Call, Flow, SubFlow
from fractal_rm.domain.handoff.messages import FinishedSteps, ReceivedOffer
from fractal_rm.domain.refusals import (
    Draining,
    Forgotten,
    OtherBoot,
    OtherDefinition,
    OtherStore,
    OwnRun,
    Paused,
    Refused,
    RefusedBefore,
    SameNodeId,
    UnknownFlow,
    WrongShape,
)
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import OFFERED


class Receiver(msgspec.Struct, frozen=True):
    """What the decision about an offer depends on, besides the offer and the flow.

    ``remembers_ms``: for how long the journal finds the run of an offer. ``has_accepted``: this
    node has just accepted a copy of this offer. ``has_refused``: it has refused one since it
    started.
    """

    node: str
    store: str
    boot: str
    remembers_ms: int
    is_draining: bool = False
    is_paused: bool = False
    has_accepted: bool = False
    has_refused: bool = False


def has_offered(own: Run | None) -> bool:
    """Whether a node offers a run of its own. ``own`` is its open run with this id, if any.

    A run that the node has received is not its own, also while the node returns it to its sender.
    Then the node has the run, and a repeated offer of the sender gets the receipt again.
    """
    return own is not None and own.sender is None and own.placement in OFFERED


def is_lasting(offer: ReceivedOffer, receiver: Receiver) -> bool:
    """Whether a refusal of this offer is valid for each copy of it, however late it arrives.

    The node remembers its refusals until it ends. Then its boot changes, so that it refuses all
    copies. Offers of older releases have no boot: a copy of such an offer may still be accepted. If
    one copy was accepted, the refusal of another copy says nothing about the run.
    """
    return offer.boot != "" and offer.store == receiver.store and not receiver.has_accepted


def is_lasting_unread(offer: ReceivedOffer, receiver: Receiver) -> bool:
    """Whether a refusal is lasting although the journal cannot be searched for the run now.

    It is if the offer is valid only for this boot: the node knows what it has accepted since then.
    """
    return offer.boot == receiver.boot and is_lasting(offer, receiver)


def check_not_own(offer: ReceivedOffer, node: str, *, has_offered: bool) -> None:
    """Raise Refused if this node offers the run itself: it is in its own nodes.conf.

    ``node`` is the id of this node. ``has_offered``: see the function of this name. Call this
    before the journal is searched: it has the run, but no other node has.
    """
    if has_offered:
        raise OwnRun(f"the node itself has offered run {offer.run}")
    if offer.sender == node and node:
        raise SameNodeId(f"both nodes have the id {node}: give each node its own node.id")


def check_known(offer: ReceivedOffer, receiver: Receiver) -> None:
    """Raise Refused if this node cannot know whether it has taken the run before.

    Call this for an offer whose run is not in the journal.
    """
    fault = _fault_of_memory(offer, receiver)
    if fault is not None:
        fault.refused_offer = offer.run, offer.epoch
        raise fault


def _fault_of_memory(offer: ReceivedOffer, receiver: Receiver) -> Refused | None:
    if offer.store and offer.store != receiver.store:
        return OtherStore("the node may have taken the run before its state folder was replaced")
    if offer.age_ms is not None and offer.age_ms > receiver.remembers_ms:
        return Forgotten(
            f"the run was first offered up to {offer.age_ms // 1000} s ago, and the node"
            f" remembers trigger ids for {receiver.remembers_ms // 1000} s (state.dedup_window_s)"
        )
    return None


def check_offer(
    offer: ReceivedOffer, receiver: Receiver, flow: Flow | None, definition: str, flow_id: str
) -> None:
    """Raise the reason why an offer is not accepted. ``flow`` is None if the node has no such flow.

    Call this for an offer whose run is not in the journal, after `check_known`.
    """
    fault = _fault_of_offer(offer, receiver) or _fault_of_flow(offer, flow, definition, flow_id)
    if fault is not None:
        raise fault


def _fault_of_offer(offer: ReceivedOffer, receiver: Receiver) -> Refused | None:
    if offer.boot and offer.boot != receiver.boot:
        return OtherBoot(
            "the offer was for an earlier start of the node; the sender asks it again, and repeats"
            " the offer"
        )
    if receiver.has_refused:
        return RefusedBefore(
            "the node has refused this offer before; the sender may offer the run again"
        )
    if receiver.is_draining:
        return Draining("the node is drained")
    if receiver.is_paused:
        return Paused("the node is paused")
    return None


def _fault_of_flow(
    offer: ReceivedOffer, flow: Flow | None, definition: str, flow_id: str
) -> Refused | None:
    if flow is None:
        return UnknownFlow(f"flows.conf has no flow {flow_id!r:.60}")
    if offer.definition and offer.definition != definition:
        return OtherDefinition(f"flow {flow.id} is defined differently on the two nodes")
    if not _have_place(offer.steps, flow):
        return WrongShape("the finished steps of the offer are not steps of the flow")
    return None


def _have_place(steps: FinishedSteps, flow: Flow) -> bool:
    """Whether each finished step is a step of the flow, and none is finished twice."""
    expected: set[tuple[type[Finished | StepPassed], int]] = {
        (Finished, step.number) if isinstance(step, (Call, SubFlow)) else (StepPassed, position)
        for position, step in enumerate(flow.steps)
    }
    found = [
        (Finished, each.step) if isinstance(each, Finished) else (StepPassed, each.position)
        for each in steps
    ]
    return len(set(found)) == len(found) and expected.issuperset(found)
