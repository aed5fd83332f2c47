"""The hand-off of a run from one node to another, for both nodes.

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

A plain peer, such as an original, reads only the flow and the payload. If a run is offered to a
plain peer twice, the peer executes the run twice. ``adapters/peers`` sends offers by HTTP, and
``web/api`` receives them.
"""

from __future__ import annotations

from enum import Enum
from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.domain.backoff import backoff_s
from fractal_rm.domain.cause import Cause, Failure, ResponseExcerpt
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.refusals import Malformed, OwnRun, UnknownFlow
from fractal_rm.domain.run_id import is_run_id
from fractal_rm.domain.state import State
from fractal_rm.domain.strict_json import read_json_as

MAX_EPOCH = 2**53
MAX_SENDER_LENGTH = 200
OFFER_TRIES = 3
FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 30.0  # between two offers of the same run


# --- the offer of the sender ---------------------------------------------------------------------


class Offer(msgspec.Struct, frozen=True):
    """An offer of a run. A repeated offer has the same ``epoch``.

    ``sender`` is the id of the sending node. ``left_ms`` is the time within which the run must end;
    None: no limit. ``left_ms`` is a duration, so the clocks of the two nodes need not agree.
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
    """The keys that make a message an offer. Other senders may use these keys differently."""

    run: msgspec.Raw | UnsetType = UNSET
    epoch: msgspec.Raw | UnsetType = UNSET
    sender: msgspec.Raw | UnsetType = UNSET


class ReceivedOffer(msgspec.Struct, frozen=True):
    """The values in a received offer that other triggers do not have."""

    run: str
    epoch: int
    sender: str = ""

    @property
    def key(self) -> str:
        """The trigger id of the offer in the journal. Ids of senders never begin with NUL."""
        return f"\0offer:{self.run}:{self.epoch}"


def received_offer(fields: OfferFields) -> ReceivedOffer | None:
    """Decode the keys of an offer. Return None if the message is not an offer.

    The id of the run is sent in a header of every call, so it must have the form of a run id.
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
    """The peer, or a gateway before it, answered with an error.

    ``code`` is the error code, if a node of this program answered. `is_not_taken` decides what the
    refusal means for the run.
    """

    reason: str
    status: int
    code: str | None = None


class NoAnswer(msgspec.Struct, frozen=True):
    """The peer did not answer. ``sent``: the offer may have arrived."""

    reason: str
    sent: bool


OfferAnswer = Union[Receipt, NoReceipt, OfferRefused, NoAnswer]

# The problem type (RFC 9457) of a refusal by this program: this prefix, then the code of the error.
CODE_PREFIX = "urn:fractal-rm:"
# A refusal with one of these codes shows that a node of this program has not taken the run, neither
# now nor at an earlier offer. The node searches its journal before it refuses an unknown flow.
NOT_TAKEN_CODES = frozenset({UnknownFlow.code, OwnRun.code})
_STATUS_TIMEOUT, _FIRST_SERVER_ERROR, _STATUS_BUSY = 408, 500, 503


class _ReceiptMessage(msgspec.Struct):
    run: str | None = None
    epoch: int | None = None


def read_receipt(message: bytes, offer: Offer) -> Receipt | NoReceipt:
    """Decode the answer to an accepted offer. A receipt has the run and the epoch of the offer."""
    try:
        answer = read_json_as(message, _ReceiptMessage)
    except (Malformed, msgspec.ValidationError):
        return NoReceipt()
    if (answer.run, answer.epoch) != (offer.run, offer.epoch):
        return NoReceipt()
    return Receipt(offer.run, offer.epoch)


def is_not_taken(refusal: OfferRefused, *, maybe_taken: bool) -> bool:
    """Whether a refusal shows that the peer has not taken the run.

    ``maybe_taken``: the peer may have taken the run at an earlier offer. Then True is returned only
    for NOT_TAKEN_CODES. Otherwise True is returned, except for status 408 and for 5xx other than
    503. An original answers 500 if a flow failed halfway, and a gateway answers 502 or 504 if
    it lost its connection to the peer. With 503, the peer was busy and took nothing.
    """
    if maybe_taken:
        return refusal.code in NOT_TAKEN_CODES
    return refusal.status == _STATUS_BUSY or not _is_inconclusive(refusal.status)


def recognized(status: int, code: str | None) -> bool | None:
    """Whether a node of this program sent this answer to an empty message. None: not known.

    Only a node of this program answers with a ``code``. No program executes anything for an empty
    message. A timeout or a server error may come from a gateway, so None is returned then.
    """
    if code is not None:
        return True
    return None if _is_inconclusive(status) else False


def _is_inconclusive(status: int) -> bool:
    """Whether a status does not show what the peer did: a timeout, or an error of a server."""
    return status == _STATUS_TIMEOUT or status >= _FIRST_SERVER_ERROR


# --- the next action of the sender ---------------------------------------------------------------


class AfterSilence(str, Enum):
    """The setting ``after_silence`` of a node: what follows if a plain peer may have the run."""

    RUN_HERE = "run-here"
    UNKNOWN = "unknown"


class TryAgain(msgspec.Struct, frozen=True):
    """Offer the run again, under the same epoch, after ``after_s`` seconds.

    ``maybe_taken``: the peer may have taken the run already. ``reason``: why that is not known.
    """

    after_s: float
    maybe_taken: bool = False
    reason: str = ""


class RunHere(msgspec.Struct, frozen=True):
    """Execute the run on this node. ``maybe_twice``: the peer may execute the run, too."""

    why: Failure
    maybe_twice: bool = False

    @property
    def reason(self) -> str:
        """The reason, for people."""
        return self.why.reason


def after_answer(
    answer: NoReceipt | OfferRefused | NoAnswer,
    node: str,
    tries: int,
    fraction: float,
    *,
    maybe_taken: bool,
) -> TryAgain | RunHere | Failure:
    """Decide what follows an offer without a receipt. Return a Failure if the run is in doubt.

    ``tries`` is the number of offers so far, ``fraction`` a random number from 0 to 1 for the
    jitter. ``maybe_taken``: the peer may have taken the run at an earlier offer.
    """
    if isinstance(answer, OfferRefused):
        refused = Failure(Cause.OFFER_REFUSED, answer.reason, ResponseExcerpt(answer.status))
        return RunHere(refused) if is_not_taken(answer, maybe_taken=maybe_taken) else refused
    if isinstance(answer, NoReceipt):
        return Failure(Cause.NO_RECEIPT, f"node {node} gave no receipt")
    if answer.sent or maybe_taken:
        return Failure(Cause.PEER_SILENT, f"node {node} did not answer: {answer.reason}")
    return _after_unsent(tries, node, answer.reason, fraction)


def _after_unsent(tries: int, node: str, why: str, fraction: float) -> TryAgain | RunHere:
    """Decide what follows an offer that was not sent. The run is not in doubt."""
    if tries < OFFER_TRIES:
        return TryAgain(pause_s(tries, fraction))
    return RunHere(Failure(Cause.PEER_UNREACHABLE, f"node {node} could not be reached: {why}"))


def ask_again(tries: int, why: str, fraction: float) -> TryAgain:
    """Offer the run again to a node of this program: its answer shows whether it has the run."""
    return TryAgain(pause_s(tries, fraction), maybe_taken=True, reason=why)


def wait_for_node(why: str) -> TryAgain:
    """Wait before the next offer to a node that may have the run, but cannot be asked now."""
    return TryAgain(MAX_PAUSE_S, maybe_taken=True, reason=why)


def after_doubt(
    why: Failure, *, rule: AfterSilence | None, not_idempotent: str | None, in_time: bool
) -> RunHere | Settled:
    """Decide what follows if a plain peer may have executed the run. The run is not offered again.

    ``rule`` is the setting in nodes.conf. Without this setting, ``not_idempotent`` decides: the
    name of a component of the flow that must not be called twice, or None. ``in_time``: the time
    limit of the run has not passed.
    """
    doubt = f"{why.reason}; the run may have been executed there"
    if rule is AfterSilence.UNKNOWN:
        return _unknown(why, f"{doubt}, and nodes.conf sets after_silence to unknown")
    if not in_time:
        return _unknown(why, f"{doubt}, and the time limit of the run has passed")
    if rule is None and not_idempotent is not None:
        return _unknown(why, f"{doubt}, and component {not_idempotent} is not idempotent")
    return RunHere(Failure(why.cause, f"{doubt} too", why.answer), maybe_twice=True)


def _unknown(why: Failure, reason: str) -> Settled:
    return Settled(State.UNKNOWN, reason, why.cause, status_of(why))


def status_of(why: Failure) -> int | UnsetType:
    """The HTTP status with which the peer answered; unset if it did not answer."""
    return UNSET if why.answer is UNSET else why.answer.status


def pause_s(tries: int, fraction: float) -> float:
    """Seconds to wait before the next offer."""
    return backoff_s(tries, FIRST_PAUSE_S, MAX_PAUSE_S, fraction)
