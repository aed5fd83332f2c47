"""What two nodes send to each other at a hand-off, and its form as JSON."""

from __future__ import annotations

from typing import Annotated, Union

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.domain.facts import Finished, StepPassed
from fractal_rm.domain.node_description import KIND, NodeDescription
from fractal_rm.domain.refusals import Forgotten, Malformed, OtherStore, WrongShape
from fractal_rm.domain.run_id import is_run_id
from fractal_rm.domain.strict_json import read_json_as

MAX_EPOCH = 2**53
MAX_ID_LENGTH = 200  # of ids of nodes, stores and boots, in characters
# The problem type (RFC 9457) of a refusal by this program is this prefix and the error code.
CODE_PREFIX = "urn:fractal-rm:"
# A refusal with one of these codes names the offer, but the node may have taken the run before.
_MAYBE_TAKEN_CODES = frozenset({OtherStore.code, Forgotten.code})
_STATUS_BUSY = 503

FinishedStep = Union[Finished, StepPassed]
FinishedSteps = tuple[FinishedStep, ...]

# --- what a node is -------------------------------------------------------------------------------


class OlderNode(msgspec.Struct, frozen=True):
    """A node of this program that does not describe itself.

    It runs an older release, or refuses to describe itself to this node.
    """


class PlainPeer(msgspec.Struct, frozen=True):
    """Another program, such as the original Runtime Manager."""


class NoAnswer(msgspec.Struct, frozen=True):
    """The peer did not answer. If ``sent`` is true, the request may have arrived."""

    reason: str
    sent: bool


PeerKind = Union[NodeDescription, OlderNode, PlainPeer, NoAnswer]


def read_description(message: bytes) -> NodeDescription | None:
    """Decode the description of a node. None: the message is something else."""
    try:
        description = read_json_as(message, NodeDescription)
    except (Malformed, msgspec.ValidationError):
        return None
    return description if description.kind == KIND else None


# --- the offer ------------------------------------------------------------------------------------


class Offer(msgspec.Struct, frozen=True):
    """An offer of a run. A repeated offer has the same ``epoch``.

    ``sender`` is the id of the sending node, and ``origin`` the id of the node that accepted the
    trigger. ``definition`` is the digest of the flow (`flow.definition_digest`). ``left_ms`` is the
    time that is left for the run, or None. It is a duration, so the clocks of the two nodes need
    not agree. ``steps`` are the finished steps of the run, with their results.

    ``store`` and ``boot`` are those of the receiver, as far as the sender knows them. ``age_ms`` is
    set only in a repeated offer: the first offer is at most so old, in milliseconds.
    """

    run: str
    epoch: int
    sender: str
    flow_id: str
    payload: msgspec.Raw
    left_ms: int | None = None
    traceparent: str | None = None
    definition: str = ""
    origin: str = ""
    store: str = ""
    boot: str = ""
    age_ms: int | None = None
    steps: FinishedSteps = ()


class _OfferMessage(msgspec.Struct, omit_defaults=True):
    """The keys of a trigger, and the keys that only nodes of this program read."""

    payload: msgspec.Raw
    id_flow: str
    run: str
    epoch: int
    sender: str
    is_load_balancing: bool
    deadline_ms: int | UnsetType = UNSET
    definition: str = ""
    origin: str = ""
    store: str = ""
    boot: str = ""
    age_ms: int | UnsetType = UNSET
    steps: FinishedSteps = ()


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
        definition=offer.definition,
        origin=offer.origin,
        store=offer.store,
        boot=offer.boot,
        age_ms=UNSET if offer.age_ms is None else offer.age_ms,
        steps=offer.steps,
    )
    return _encoder.encode(message)


class OfferFields(msgspec.Struct, kw_only=True):
    """The keys that make a trigger an offer. Other senders may use them for their own purposes."""

    run: msgspec.Raw | UnsetType = UNSET
    epoch: msgspec.Raw | UnsetType = UNSET


_NodeId = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]


class ReceivedOffer(msgspec.Struct, frozen=True):
    """The part of a received offer that a trigger does not have. See `Offer` for the fields.

    An older release sends only ``run``, ``epoch`` and ``sender``.
    """

    run: str
    epoch: int
    sender: _NodeId = ""
    definition: _NodeId = ""
    origin: _NodeId = ""
    store: _NodeId = ""
    boot: _NodeId = ""
    age_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None
    steps: FinishedSteps = ()

    @property
    def key(self) -> str:
        """The trigger id of the offer in the journal. The id of a sender never begins with NUL."""
        return f"\0offer:{self.run}:{self.epoch}"


def received_offer(fields: OfferFields, message: bytes) -> ReceivedOffer | None:
    """Decode an offer. ``fields`` are those of ``message``. Returns None if it is not an offer.

    The id of the run must have the form of a run id, because every call sends it in a header.
    Raises WrongShape if a run and an epoch are valid, and another key is not.
    """
    if fields.run is UNSET or fields.epoch is UNSET:
        return None
    try:
        offer = _decode_offer(message)
    except msgspec.ValidationError as error:
        try:
            offer = ReceivedOffer(_decode_text(fields.run), _decode_number(fields.epoch))
        except msgspec.ValidationError:
            return None
        if not _is_valid(offer):
            return None
        raise WrongShape(f"this is not the offer of a run: {error}") from None
    return offer if _is_valid(offer) else None


_decode_offer = msgspec.json.Decoder(ReceivedOffer).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_number = msgspec.json.Decoder(int).decode


def _is_valid(offer: ReceivedOffer) -> bool:
    return is_run_id(offer.run) and 1 <= offer.epoch <= MAX_EPOCH


# --- the answer to an offer -----------------------------------------------------------------------


class Receipt(msgspec.Struct, frozen=True):
    """The peer is a node of this program, and has the run on its disk."""

    run: str
    epoch: int


class NoReceipt(msgspec.Struct, frozen=True):
    """The peer accepted the offer without a receipt, as a plain peer does."""


class OfferRefused(msgspec.Struct, frozen=True):
    """The peer, or a gateway in front of it, answered with an error.

    ``code`` is the error code if a node of this program answered, otherwise None. ``certain``: the
    node named this offer, so it has not taken the run, and will never take it under this epoch.
    ``inconclusive``: the refusal does not show what happened to this offer, whatever its status is.
    """

    reason: str
    status: int
    code: str | None = None
    certain: bool = False
    inconclusive: bool = False


OfferAnswer = Union[Receipt, NoReceipt, OfferRefused, NoAnswer]


class _ReceiptMessage(msgspec.Struct):
    run: str | None = None
    epoch: int | None = None


class _Problem(_ReceiptMessage):
    """Problem details (RFC 9457), with the offer that is refused."""

    type: str = ""


def read_receipt(message: bytes, offer: Offer) -> Receipt | NoReceipt:
    """Decode the answer to an accepted offer. A receipt has the same run and epoch as the offer."""
    try:
        answer = read_json_as(message, _ReceiptMessage)
    except (Malformed, msgspec.ValidationError):
        return NoReceipt()
    return Receipt(offer.run, offer.epoch) if _is_answer_to(answer, offer) else NoReceipt()


def read_refusal(message: bytes, offer: Offer, status: int, reason: str) -> OfferRefused:
    """Decode the refusal of an offer.

    It is inconclusive if it names another offer: then it is a late answer to an earlier offer. A
    node that is asked by its boot names the offer, unless it has taken a copy of it, or cannot read
    its journal. So a refusal that should name the offer, and does not, is inconclusive, too.
    """
    try:
        problem = read_json_as(message, _Problem)
    except (Malformed, msgspec.ValidationError):
        return OfferRefused(reason, status)
    code = _code_of(problem.type)
    if code is None:
        return OfferRefused(reason, status)
    maybe_taken = code in _MAYBE_TAKEN_CODES
    names_offer = _is_answer_to(problem, offer)
    must_name_offer = offer.boot != "" and (status == _STATUS_BUSY or maybe_taken)
    return OfferRefused(
        reason,
        status,
        code,
        certain=names_offer and not maybe_taken,
        inconclusive=not names_offer and (bool(problem.run) or must_name_offer),
    )


def code_in(message: bytes) -> str | None:
    """The code of a refusal, if a node of this program has sent it; otherwise None."""
    try:
        return _code_of(read_json_as(message, _Problem).type)
    except (Malformed, msgspec.ValidationError):
        return None


def _code_of(problem_type: str) -> str | None:
    if not problem_type.startswith(CODE_PREFIX):
        return None
    return problem_type.removeprefix(CODE_PREFIX)


def _is_answer_to(answer: _ReceiptMessage, offer: Offer) -> bool:
    """Whether an answer names this offer. A late answer may name an offer of an earlier epoch."""
    return (answer.run, answer.epoch) == (offer.run, offer.epoch)
