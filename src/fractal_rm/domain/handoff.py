"""The hand-off of a run from one node to another. Both nodes use this module.

    sender                                      receiver
    ──────                                      ────────
    placed on node N
      │ `Offered` is on the disk
      ▼
    offered ──Offer: run, epoch, sender, ─────> has offered this run ──────> refusal `own-run`
      │       flow, payload, time left          has this run and epoch ────> the same Receipt again
      │                                         has no such flow ──────────> refusal `unknown-flow`
      │                                         busy, stopping, disk full ─> refusal
      │                                         `Received` is on the disk ─> Receipt: run, epoch
      │
      ├── Receipt ─────────────> handed off
      ├── NoReceipt ───────────> handed off, if the peer may be an original that has the flow
      ├── OfferRefused ────────> executed here, if the peer has certainly not taken the run
      ├── NoAnswer, not sent ──> offered again; executed here after OFFER_TRIES
      └── anything else ───────> in doubt: the peer may have taken the run
            ├── the offer went to a node of this program: the run is offered again under the same
            │   epoch until the node answers, but only while it is recognized as such a node
            └── the offer went to any other peer: the run is never offered again; it is executed
                here as well, or ends as `unknown` (see `after_doubt`)

A plain peer is not a node of this program; it may be an original. It reads only the flow and the
payload of an offer, so it would execute a run twice if the run were offered twice.
``adapters/peers`` sends offers by HTTP, and ``web/api`` receives them.
"""

from __future__ import annotations

from enum import Enum
from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.domain.backoff import backoff_s
from fractal_rm.domain.cause import Cause, Failure, ResponseExcerpt
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.node_description import KIND, NodeDescription
from fractal_rm.domain.refusals import Malformed, OwnRun, UnknownFlow
from fractal_rm.domain.run_id import is_run_id
from fractal_rm.domain.state import State
from fractal_rm.domain.strict_json import read_json_as

MAX_EPOCH = 2**53
MAX_SENDER_LENGTH = 200
OFFER_TRIES = 3
FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 30.0  # pauses between two offers of the same run


# --- what a node is -------------------------------------------------------------------------------


def read_description(message: bytes) -> NodeDescription | None:
    """Decode the description of a node. None: the message is something else."""
    try:
        description = read_json_as(message, NodeDescription)
    except (Malformed, msgspec.ValidationError):
        return None
    return description if description.kind == KIND else None


# --- the offer of the sender ---------------------------------------------------------------------


class Offer(msgspec.Struct, frozen=True):
    """An offer of a run. A repeated offer has the same ``epoch``.

    ``sender`` is the id of the sending node. ``left_ms`` is the time that is left for the run, or
    None. It is a duration, so the clocks of the two nodes need not agree.
    """

    run: str
    epoch: int
    sender: str
    flow_id: str
    payload: msgspec.Raw
    left_ms: int | None = None
    traceparent: str | None = None


class _OfferMessage(msgspec.Struct):
    """The keys of a trigger, and the keys that only nodes of this program read."""

    payload: msgspec.Raw
    id_flow: str
    run: str
    epoch: int
    sender: str
    is_load_balancing: bool
    deadline_ms: int | UnsetType = UNSET


_encoder = msgspec.json.Encoder()


def offer_message(offer: Offer) -> bytes:
    """The JSON of an offer, without its ``traceparent``, which is sent as a header."""
    message = _OfferMessage(
        offer.payload,
        offer.flow_id,
        offer.run,
        offer.epoch,
        offer.sender,
        is_load_balancing=True,
        deadline_ms=UNSET if offer.left_ms is None else offer.left_ms,
    )
    return _encoder.encode(message)


class OfferFields(msgspec.Struct, kw_only=True):
    """The keys that make a trigger an offer. Other senders may use them for their own purposes."""

    run: msgspec.Raw | UnsetType = UNSET
    epoch: msgspec.Raw | UnsetType = UNSET
    sender: msgspec.Raw | UnsetType = UNSET


class ReceivedOffer(msgspec.Struct, frozen=True):
    """The part of a received offer that a trigger does not have."""

    run: str
    epoch: int
    sender: str = ""

    @property
    def key(self) -> str:
        """The trigger id of the offer in the journal. The id of a sender never begins with NUL."""
        return f"\0offer:{self.run}:{self.epoch}"


def received_offer(fields: OfferFields) -> ReceivedOffer | None:
    """Decode the keys of an offer. Return None if the message is not an offer.

    The id of the run must have the form of a run id, because every call sends it in a header.
    """
    try:
        run = _text(fields.run)
        if run is None or not is_run_id(run) or fields.epoch is UNSET:
            return None
        epoch = msgspec.json.decode(fields.epoch, type=int)
        sender = _text(fields.sender) or ""
    except msgspec.ValidationError:
        return None
    if not 1 <= epoch <= MAX_EPOCH:
        return None
    return ReceivedOffer(run, epoch, sender[:MAX_SENDER_LENGTH])


def _text(raw: msgspec.Raw | UnsetType) -> str | None:
    return None if raw is UNSET else msgspec.json.decode(raw, type=Union[str, None])


# --- the answer of the receiver ------------------------------------------------------------------


class Receipt(msgspec.Struct, frozen=True):
    """The peer is a node of this program, and has the run on its disk."""

    run: str
    epoch: int


class NoReceipt(msgspec.Struct, frozen=True):
    """The peer accepted the offer without a receipt, as a plain peer does."""


class OfferRefused(msgspec.Struct, frozen=True):
    """The peer, or a gateway in front of it, answered with an error.

    ``code`` is the error code if a node of this program answered, otherwise None. `is_not_taken`
    decides what the refusal means for the run.
    """

    reason: str
    status: int
    code: str | None = None


class NoAnswer(msgspec.Struct, frozen=True):
    """The peer did not answer. If ``sent`` is true, the offer may have arrived."""

    reason: str
    sent: bool


OfferAnswer = Union[Receipt, NoReceipt, OfferRefused, NoAnswer]

# The problem type (RFC 9457) of a refusal by this program is this prefix and the error code.
CODE_PREFIX = "urn:fractal-rm:"
# A refusal with one of these codes shows that the peer has not taken the run, not even at an
# earlier offer: a node searches its journal for the run before it refuses an unknown flow.
NOT_TAKEN_CODES = frozenset({UnknownFlow.code, OwnRun.code})
_STATUS_TIMEOUT, _FIRST_SERVER_ERROR, _STATUS_BUSY = 408, 500, 503


class _ReceiptMessage(msgspec.Struct):
    run: str | None = None
    epoch: int | None = None


def read_receipt(message: bytes, offer: Offer) -> Receipt | NoReceipt:
    """Decode the answer to an accepted offer. A receipt has the same run and epoch as the offer."""
    try:
        answer = read_json_as(message, _ReceiptMessage)
    except (Malformed, msgspec.ValidationError):
        return NoReceipt()
    if (answer.run, answer.epoch) != (offer.run, offer.epoch):
        return NoReceipt()
    return Receipt(offer.run, offer.epoch)


def is_not_taken(refusal: OfferRefused, *, maybe_taken: bool) -> bool:
    """Whether a refusal shows that the peer has not taken the run.

    ``maybe_taken``: whether the peer may have taken the run at an earlier offer. If so, only a code
    in NOT_TAKEN_CODES shows that it has not. If not, the status decides. Most statuses show that
    the peer has not taken the run. With 503, it was busy. But 408 and any other 5xx do not show it:
    an original answers 500 if a flow failed halfway, and a gateway answers 502 or 504 if it lost
    its connection to the peer.
    """
    if maybe_taken:
        return refusal.code in NOT_TAKEN_CODES
    return refusal.status == _STATUS_BUSY or not _is_inconclusive(refusal.status)


def is_node_of_this_program(status: int, code: str | None) -> bool | None:
    """Whether the peer that gave this answer to an empty message is a node of this program.

    Only a node of this program answers with a ``code``. None means unknown: a timeout or a server
    error may come from a gateway. No program executes anything for an empty message.
    """
    if code is not None:
        return True
    return None if _is_inconclusive(status) else False


def _is_inconclusive(status: int) -> bool:
    """Whether a status leaves open what the peer did: a timeout, or an error of a server."""
    return status == _STATUS_TIMEOUT or status >= _FIRST_SERVER_ERROR


# --- the next action of the sender ---------------------------------------------------------------


class AfterSilence(str, Enum):
    """The setting ``after_silence`` of a node: what happens if a plain peer may have the run."""

    RUN_HERE = "run-here"
    UNKNOWN = "unknown"


class Decision(str, Enum):
    """The decision of an operator about a run whose offer is in doubt."""

    TAKEN = "taken"
    RUN_HERE = "run-here"


class TryAgain(msgspec.Struct, frozen=True):
    """Offer the run again, under the same epoch, after ``after_s`` seconds.

    ``maybe_taken``: whether the peer may have taken the run. ``reason``: why that is not known.
    """

    after_s: float
    maybe_taken: bool = False
    reason: str = ""


class RunHere(msgspec.Struct, frozen=True):
    """Execute the run on this node. ``maybe_twice``: whether the peer may execute it, too.

    ``failure`` says how the offer failed.
    """

    failure: Failure
    maybe_twice: bool = False

    @property
    def reason(self) -> str:
        """The reason of the failure, for people."""
        return self.failure.reason


def after_answer(
    answer: NoReceipt | OfferRefused | NoAnswer,
    node: str,
    tries: int,
    fraction: float,
    *,
    maybe_taken: bool,
) -> TryAgain | RunHere | Failure:
    """Decide what follows an offer without a receipt. Return a Failure if the run is in doubt.

    ``tries`` is the number of offers so far. ``fraction`` is a random number from 0 to 1 for the
    jitter. ``maybe_taken``: whether the peer may have taken the run at an earlier offer.
    """
    if isinstance(answer, OfferRefused):
        failure = Failure(Cause.OFFER_REFUSED, answer.reason, ResponseExcerpt(answer.status))
        return RunHere(failure) if is_not_taken(answer, maybe_taken=maybe_taken) else failure
    if isinstance(answer, NoReceipt):
        return Failure(Cause.NO_RECEIPT, f"node {node} gave no receipt")
    if answer.sent or maybe_taken:
        return Failure(Cause.PEER_SILENT, f"node {node} did not answer: {answer.reason}")
    return _after_unsent(tries, node, answer.reason, fraction)


def _after_unsent(tries: int, node: str, reason: str, fraction: float) -> TryAgain | RunHere:
    """Decide what follows an offer that was not sent, so that the run is not in doubt."""
    if tries < OFFER_TRIES:
        return TryAgain(pause_s(tries, fraction))
    return RunHere(Failure(Cause.PEER_UNREACHABLE, f"node {node} could not be reached: {reason}"))


def ask_again(tries: int, reason: str, fraction: float) -> TryAgain:
    """The next offer to a node of this program, whose answer will show whether it has the run."""
    return TryAgain(pause_s(tries, fraction), maybe_taken=True, reason=reason)


def wait_for_node(reason: str) -> TryAgain:
    """The next offer, after a long pause, to a node that may have the run but cannot be asked."""
    return TryAgain(MAX_PAUSE_S, maybe_taken=True, reason=reason)


def after_doubt(
    failure: Failure, *, rule: AfterSilence | None, not_idempotent: str | None, in_time: bool
) -> RunHere | Settled:
    """Decide what follows if a plain peer may have executed the run. The run is not offered again.

    ``rule`` is the setting in nodes.conf. If it is None, ``not_idempotent`` decides: the name of a
    component of the flow that must not be called twice, or None. ``in_time``: whether the run is
    still within its time limit.
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
