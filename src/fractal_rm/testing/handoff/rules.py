"""The rules of the hand-off, and deliberate mistakes in them.

`REAL` has the functions that a node uses. Each entry of `MISTAKES` replaces one rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from msgspec import UNSET

from fractal_rm.domain.cause import Cause, Failure
from fractal_rm.domain.facts import Offered
from fractal_rm.domain.handoff import receiver, sender
from fractal_rm.domain.handoff.messages import (
    NoAnswer,
    NoReceipt,
    Offer,
    OfferRefused,
    PeerKind,
    Receipt,
    ReceivedOffer,
    read_receipt,
    read_refusal,
)
from fractal_rm.domain.placement import PLACED_BY_SENDER, RETURNED, Place
from fractal_rm.domain.run import Run
from fractal_rm.domain.run_id import is_continuation
from fractal_rm.domain.state import OFFERED


def _place_received(run_id: str, _balancer_choice: Place) -> Place:
    return RETURNED if is_continuation(run_id) else PLACED_BY_SENDER


@dataclass(frozen=True)
class Rules:
    """The rules that the model uses: functions of `domain.handoff`, and three of the engine.

    ``place_received`` chooses the place of a received run. ``refusals_are_remembered``: until the
    receiver ends. ``receipt_waits_for_disk``: a receipt is sent when the run is on the disk.
    """

    after_answer: Callable[..., sender.AfterOffer | Failure] = sender.after_answer
    before_repeated_offer: Callable[..., sender.TryAgain | Failure | None] = (
        sender.before_repeated_offer
    )
    read_receipt: Callable[[bytes, Offer], Receipt | NoReceipt] = read_receipt
    read_refusal: Callable[[bytes, Offer, int, str], OfferRefused] = read_refusal
    check_known: Callable[[ReceivedOffer, receiver.Receiver], None] = receiver.check_known
    check_offer: Callable[..., None] = receiver.check_offer
    is_lasting: Callable[[ReceivedOffer, receiver.Receiver], bool] = receiver.is_lasting
    has_offered: Callable[[Run | None], bool] = receiver.has_offered
    place_received: Callable[[str, Place], Place] = _place_received
    refusals_are_remembered: bool = True
    receipt_waits_for_disk: bool = True


REAL = Rules()


def _read_receipt_of_any(message: bytes, offer: Offer) -> Receipt | NoReceipt:
    return read_receipt(_with_epoch(message, offer), offer)


def _read_refusal_of_any(message: bytes, offer: Offer, status: int, reason: str) -> OfferRefused:
    return read_refusal(_with_epoch(message, offer), offer, status, reason)


def _with_epoch(message: bytes, offer: Offer) -> bytes:
    """The answer, as if it named the epoch of this offer. An answer that names none stays so."""
    answer: dict[str, Any] = msgspec.json.decode(message)
    return msgspec.json.encode({**answer, "epoch": offer.epoch}) if "run" in answer else message


def _execute_after_silence(
    answer: NoReceipt | OfferRefused | NoAnswer, node: str, tries: int, fraction: float, **more: Any
) -> sender.AfterOffer | Failure:
    if isinstance(answer, NoAnswer):
        return sender.RunHere(Failure(Cause.PEER_SILENT, f"node {node} did not answer"))
    return sender.after_answer(answer, node, tries, fraction, **more)


def _doubt_after_refusal(
    answer: NoReceipt | OfferRefused | NoAnswer, node: str, tries: int, fraction: float, **more: Any
) -> sender.AfterOffer | Failure:
    if isinstance(answer, OfferRefused):
        return Failure(Cause.OFFER_REFUSED, f"node {node} refused")
    return sender.after_answer(answer, node, tries, fraction, **more)


def _place_again(_run_id: str, balancer_choice: Place) -> Place:
    return balancer_choice


def _check_offer_of_any_boot(offer: ReceivedOffer, node: receiver.Receiver, *more: Any) -> None:
    receiver.check_offer(msgspec.structs.replace(offer, boot=node.boot), node, *more)


def _check_known_in_any_store(offer: ReceivedOffer, node: receiver.Receiver) -> None:
    receiver.check_known(msgspec.structs.replace(offer, store=node.store), node)


def _is_lasting_in_any_store(offer: ReceivedOffer, node: receiver.Receiver) -> bool:
    return receiver.is_lasting(msgspec.structs.replace(offer, store=node.store), node)


def _before_repeated_offer_to_any_store(
    peer: PeerKind, offered: Offered, tries: int, fraction: float
) -> sender.TryAgain | Failure | None:
    anywhere = msgspec.structs.replace(offered, store=UNSET)
    return sender.before_repeated_offer(peer, anywhere, tries, fraction)


def _offers_any_run(own: Run | None) -> bool:
    return own is not None and own.placement in OFFERED


def _trust_any_refusal(message: bytes, offer: Offer, status: int, reason: str) -> OfferRefused:
    refusal = read_refusal(message, offer, status, reason)
    return msgspec.structs.replace(refusal, inconclusive=False)


def _is_lasting_for_any_copy(offer: ReceivedOffer, node: receiver.Receiver) -> bool:
    return receiver.is_lasting(offer, msgspec.structs.replace(node, has_accepted=False))


# Earlier versions of this program had the last three.
MISTAKES: dict[str, Rules] = {
    "the sender does not compare the epoch in an answer": replace(
        REAL, read_receipt=_read_receipt_of_any, read_refusal=_read_refusal_of_any
    ),
    "the receipt is sent before the run is on the disk": replace(
        REAL, receipt_waits_for_disk=False
    ),
    "the sender executes the run here after silence": replace(
        REAL, after_answer=_execute_after_silence
    ),
    "a received run is placed again by the balancer": replace(REAL, place_received=_place_again),
    "the receiver does not remember its refusals": replace(REAL, refusals_are_remembered=False),
    "the receiver does not compare the boot": replace(REAL, check_offer=_check_offer_of_any_boot),
    "nobody compares the store": replace(
        REAL,
        check_known=_check_known_in_any_store,
        is_lasting=_is_lasting_in_any_store,
        before_repeated_offer=_before_repeated_offer_to_any_store,
    ),
    "a refusal does not end the doubt": replace(REAL, after_answer=_doubt_after_refusal),
    "a node that returns a run calls it its own": replace(REAL, has_offered=_offers_any_run),
    "the sender trusts a busy node that does not name the offer": replace(
        REAL, read_refusal=_trust_any_refusal
    ),
    "a node names the offer when it refuses a copy of an accepted one": replace(
        REAL, is_lasting=_is_lasting_for_any_copy
    ),
}
