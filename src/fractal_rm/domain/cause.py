"""Causes: codes for programs that say why something happened. A reason says the same in words.

There is a small fixed set of causes, so that they can be counted; see docs/reference/causes.md.
"""

from __future__ import annotations

from enum import Enum

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.domain.errors import FractalError


class Cause(str, Enum):
    """Why something happened. The cause for an error has the same code as the error.

    Facts on the disk contain causes, so a cause is never removed or renamed.
    """

    # Why a run was placed on its node.
    BY_SENDER = "by-sender"
    NO_BALANCER = "no-balancer"
    BALANCER = "balancer"
    BALANCER_FAILED = "balancer-failed"
    UNKNOWN_NODE = "unknown-node"
    UNFIT_PEER = "unfit-peer"
    PARENT = "parent"
    DRAINED = "drained"
    RETURNED = "returned"

    # How an offer to a peer ended.
    RECEIPT = "receipt"
    PLAIN_PEER = "plain-peer"
    NO_RECEIPT = "no-receipt"
    OFFER_REFUSED = "offer-refused"
    PEER_UNREACHABLE = "peer-unreachable"
    PEER_SILENT = "peer-silent"
    PEER_GONE = "peer-gone"
    PEER_REPLACED = "peer-replaced"
    OPERATOR = "operator"

    # Why a step failed.
    STATUS = "status"
    NOT_EXPECTED = "not-expected"
    CONNECT_FAILED = "connect-failed"
    TIMED_OUT = "timed-out"
    BAD_REPLY = "bad-reply"
    REPLY_TOO_LARGE = "reply-too-large"
    CALL_FAILED = "call-failed"
    CIRCUIT_OPEN = "circuit-open"
    ANSWER_LOST = "answer-lost"
    PUBLISH_FAILED = "publish-failed"
    SUB_FLOW = "sub-flow"
    DEADLOCK = "deadlock"
    CANNOT_EVALUATE = "cannot-evaluate"
    TOO_MANY_VALUES = "too-many-values"
    NOT_CONFIGURED = "not-configured"

    # Why a run ended or was parked although no step failed.
    DEADLINE = "deadline"
    STALE = "stale"
    SUPERSEDED = "superseded"
    OLD = "old"
    RESTORED = "restored"

    # Why a run is set aside.
    ATTEMPTS = "attempts"
    UNREADABLE = "unreadable"
    INTERNAL = "internal"

    # Why a message never became a run.
    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    WRONG_CONTENT_TYPE = "wrong-content-type"
    WRONG_CONTENT_CODING = "wrong-content-coding"
    WRONG_SHAPE = "wrong-shape"
    UNKNOWN_FLOW = "unknown-flow"
    KEY_REUSED = "key-reused"
    OWN_RUN = "own-run"

    OTHER = "other"

    # `Enum.__hash__` and `Enum.value` are Python functions, so they would be slower.
    __hash__ = str.__hash__

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def _missing_(cls, value: object) -> Cause:  # noqa: ARG003 - the name is Enum's
        """Return OTHER for a code of a later release, or of an error that has no own cause."""
        return cls.OTHER

    @classmethod
    def of(cls, error: FractalError) -> Cause:
        """The cause that has the code of the error."""
        return cls(error.code)


class ResponseExcerpt(msgspec.Struct, frozen=True, gc=False):
    """The stored part of a response because of which a step failed.

    ``location`` is the target of a redirect. ``body_start`` is the start of a body that is text,
    with each sequence of white space replaced by one space.
    """

    status: int
    location: str | UnsetType = UNSET
    body_start: str | UnsetType = msgspec.field(name="begin", default=UNSET)


class Failure(msgspec.Struct, frozen=True, gc=False):
    """Why something failed. ``cause`` is unset if an older release recorded the failure."""

    cause: Cause | UnsetType
    reason: str
    answer: ResponseExcerpt | UnsetType = UNSET

    @classmethod
    def of(cls, error: FractalError) -> Failure:
        """The failure for an error."""
        return cls(Cause.of(error), error.reason)
