"""The decisions of the node that offers a run."""

from __future__ import annotations

from enum import Enum
from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.domain.backoff import backoff_s
from fractal_rm.domain.cause import Cause, Failure, ResponseExcerpt
from fractal_rm.domain.facts import Offered, Placed, Settled
from fractal_rm.domain.handoff.messages import (
    NoAnswer,
    NoReceipt,
    OfferRefused,
    OlderNode,
    PeerKind,
    PlainPeer,
)
from fractal_rm.domain.node_description import NodeDescription
from fractal_rm.domain.placement import reason_not_to_offer
from fractal_rm.domain.refusals import OtherBoot, OwnRun, UnknownFlow
from fractal_rm.domain.state import State

OFFER_TRIES = 3
FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 30.0  # pauses between two offers of the same run
# An older release does not name the offer in its refusal. A refusal of it with one of these codes
# shows that it has not taken the run, not even at an earlier offer: it searches its journal for the
# run before it refuses an unknown flow.
NOT_TAKEN_CODES = frozenset({UnknownFlow.code, OwnRun.code})
_STATUS_TIMEOUT, _FIRST_SERVER_ERROR, _STATUS_BUSY = 408, 500, 503


class AfterSilence(str, Enum):
    """The setting ``after_silence`` of a node: what happens if a plain peer may have the run."""

    RUN_HERE = "run-here"
    UNKNOWN = "unknown"


class Decision(str, Enum):
    """What an operator decides about a run in doubt: the peer has it, or it is executed here."""

    TAKEN = "taken"
    RUN_HERE = "run-here"


# --- what happens next ----------------------------------------------------------------------------


class TryAgain(msgspec.Struct, frozen=True):
    """Offer the run again, under the same epoch, after ``after_s`` seconds.

    ``maybe_taken``: whether the peer may have taken the run. ``reason``: why that is not known.
    """

    after_s: float
    maybe_taken: bool = False
    reason: str = ""


class OfferAnew(msgspec.Struct, frozen=True):
    """Ask the peer what it is, and offer the run under a new epoch. It has not taken the run."""


class RunHere(msgspec.Struct, frozen=True):
    """Execute the run on this node. ``maybe_twice``: whether the peer may execute it, too.

    ``failure`` says how the offer failed. ``actor`` is the operator who decided it, if any.
    """

    failure: Failure
    maybe_twice: bool = False
    actor: str | UnsetType = UNSET

    @property
    def reason(self) -> str:
        """The reason of the failure, for people."""
        return self.failure.reason


def placed_here(next_step: RunHere, this_node: str | None) -> Placed:
    """The fact that a run is executed on this node after an offer. ``this_node`` is its id."""
    return Placed(
        this_node,
        next_step.reason,
        True if next_step.maybe_twice else UNSET,
        next_step.failure.cause,
        status=status_of(next_step.failure),
        actor=next_step.actor,
    )


# --- before the first offer -----------------------------------------------------------------------


def before_offer(
    peer: PeerKind,
    node: str,
    configured: str | None,
    flow_id: str,
    tries: int,
    fraction: float,
    *,
    needs_description: bool = False,
) -> TryAgain | RunHere | None:
    """Decide whether a run may be offered to a peer. None: it may be offered.

    ``configured`` is the value of ``peer`` in nodes.conf. See `after_answer` for ``tries`` and
    ``fraction``. ``needs_description``: the run has finished steps, or is returned. Older nodes and
    plain peers would begin such a run again. The peer has not got an offer of this run.
    """
    if isinstance(peer, NoAnswer):
        tries = OFFER_TRIES if peer.sent else tries  # do not wait twice for a peer that is silent
        return after_unsent(tries, node, peer.reason, fraction)
    if isinstance(peer, PlainPeer) and configured == "fractal":
        reason = f"at the address of node {node} is another program than nodes.conf says (peer)"
        return RunHere(Failure(Cause.PEER_REPLACED, reason))
    runs_this_program = isinstance(peer, (NodeDescription, OlderNode))
    reason = reason_not_to_offer(configured, flow_id, runs_this_program=runs_this_program)
    if reason is not None:
        return RunHere(Failure(Cause.UNFIT_PEER, f"node {node} {reason}"))
    if needs_description and not isinstance(peer, NodeDescription):
        reason = f"node {node} has a program that does not take this run from a drained node"
        return RunHere(Failure(Cause.UNFIT_PEER, reason))
    return None


def after_unsent(tries: int, node: str, reason: str, fraction: float) -> TryAgain | RunHere:
    """Decide what follows if nothing was sent to the peer, so that the run is not in doubt."""
    if tries < OFFER_TRIES:
        return TryAgain(pause_s(tries, fraction))
    return RunHere(Failure(Cause.PEER_UNREACHABLE, f"node {node} could not be reached: {reason}"))


# --- after an offer -------------------------------------------------------------------------------


def after_answer(
    answer: NoReceipt | OfferRefused | NoAnswer,
    node: str,
    tries: int,
    fraction: float,
    *,
    maybe_taken: bool,
) -> TryAgain | OfferAnew | RunHere | Failure:
    """Decide what follows an offer without a receipt. Return a Failure if the run is in doubt.

    ``tries`` is the number of offers so far. ``fraction`` is a random number from 0 to 1 for the
    jitter. ``maybe_taken``: whether the peer may have taken the run at an earlier offer.
    """
    if isinstance(answer, OfferRefused):
        if answer.certain and answer.code == OtherBoot.code and tries < OFFER_TRIES:
            return OfferAnew()
        failure = Failure(Cause.OFFER_REFUSED, answer.reason, ResponseExcerpt(answer.status))
        return RunHere(failure) if is_not_taken(answer, maybe_taken=maybe_taken) else failure
    if isinstance(answer, NoReceipt):
        return Failure(Cause.NO_RECEIPT, f"node {node} gave no receipt")
    if answer.sent or maybe_taken:
        return Failure(Cause.PEER_SILENT, f"node {node} did not answer: {answer.reason}")
    return after_unsent(tries, node, answer.reason, fraction)


def is_not_taken(refusal: OfferRefused, *, maybe_taken: bool) -> bool:
    """Whether a refusal shows that the peer has not taken the run.

    A certain refusal always shows it, and an inconclusive one never. The others are those of older
    releases, of originals and of gateways. ``maybe_taken``: whether the peer may have taken the run
    at an earlier offer. If so, only a code in NOT_TAKEN_CODES shows that it has not. If not, the
    status decides. Most statuses show that the peer has not taken the run. With 503, it was busy.
    But 408 and any other 5xx do not show it: an original answers 500 if a flow failed halfway, and
    a gateway answers 502 or 504 if it lost its connection to the peer.
    """
    if refusal.certain or refusal.inconclusive:
        return refusal.certain
    if maybe_taken:
        return refusal.code in NOT_TAKEN_CODES
    return refusal.status == _STATUS_BUSY or not is_inconclusive(refusal.status)


def is_inconclusive(status: int) -> bool:
    """Whether a status leaves open what the peer did: a timeout, or an error of a server."""
    return status == _STATUS_TIMEOUT or status >= _FIRST_SERVER_ERROR


# --- a run in doubt -------------------------------------------------------------------------------


def before_repeated_offer(
    peer: PeerKind, offered: Offered, tries: int, fraction: float
) -> TryAgain | Failure | None:
    """Decide whether the same offer may be sent again to a peer that may have taken the run.

    None: it may be sent. A Failure: another program or another node is at the address of the peer,
    and would execute the run a second time.
    """
    node = offered.node
    if isinstance(peer, NoAnswer):
        reason = f"node {node} may have the run, but did not identify itself: {peer.reason}"
        return ask_again(tries, reason, fraction)
    if isinstance(peer, PlainPeer):
        reason = f"the run was offered to node {node}, where no node of this program answers now"
        return Failure(Cause.PEER_REPLACED, reason)
    if offered.store is UNSET or isinstance(peer, OlderNode) or peer.store == offered.store:
        return None
    reason = f"the run was offered to node {node}, which has lost its state folder since"
    return Failure(Cause.PEER_REPLACED, reason)


def ask_again(tries: int, reason: str, fraction: float) -> TryAgain:
    """The next offer to a node of this program, whose answer will show whether it has the run."""
    return TryAgain(pause_s(tries, fraction), maybe_taken=True, reason=reason)


def wait_for_node(reason: str) -> TryAgain:
    """The next offer, after a long pause, to a node that may have the run but cannot be asked."""
    return TryAgain(MAX_PAUSE_S, maybe_taken=True, reason=reason)


def after_decision(decision: Decision, node: str, actor: str) -> RunHere | Settled:
    """Decide what follows if an operator decides about a run that node ``node`` may have."""
    if decision is Decision.TAKEN:
        reason = f"{actor} decided that node {node} has the run"
        return Settled(State.HANDED_OFF, reason, Cause.OPERATOR, actor=actor)
    reason = f"{actor} decided to execute the run here, although node {node} may have it"
    return RunHere(Failure(Cause.OPERATOR, reason), maybe_twice=True, actor=actor)


def after_doubt(
    failure: Failure, *, rule: AfterSilence | None, not_idempotent: str | None, in_time: bool
) -> RunHere | Settled:
    """Decide what follows if a peer that cannot be asked may have executed the run.

    The run is not offered again. ``rule`` is the setting in nodes.conf. If it is None,
    ``not_idempotent`` decides: the name of a component of the flow that must not be called twice,
    or None. ``in_time``: whether the run is still within its time limit.
    """
    doubt = f"{failure.reason}; the run may have been executed there"
    if rule is AfterSilence.UNKNOWN:
        return _unknown(failure, f"{doubt}, and nodes.conf sets after_silence to unknown")
    if not in_time:
        return _unknown(failure, f"{doubt}, and the time limit of the run has passed")
    if rule is None and not_idempotent is not None:
        return _unknown(failure, f"{doubt}, and component {not_idempotent} is not idempotent")
    return RunHere(Failure(failure.cause, f"{doubt} too", failure.answer), maybe_twice=True)


def _unknown(failure: Failure, reason: str) -> Settled:
    return Settled(State.UNKNOWN, reason, failure.cause, status_of(failure))


def status_of(failure: Failure) -> int | UnsetType:
    """The HTTP status with which the peer answered; unset if it did not answer."""
    return UNSET if failure.answer is UNSET else failure.answer.status


def pause_s(tries: int, fraction: float) -> float:
    """The pause before the next offer, in seconds."""
    return backoff_s(tries, FIRST_PAUSE_S, MAX_PAUSE_S, fraction)


AfterOffer = Union[Settled, TryAgain, OfferAnew, RunHere]
