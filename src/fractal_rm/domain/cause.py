"""Causes: why something came so, for programs. The sentence beside a cause is for people alone.

The set is closed and small, so that causes can be counted; docs/reference/causes.md says each.
"""

from __future__ import annotations

from enum import Enum

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.domain.errors import FractalError


class Cause(str, Enum):
    """Causes are kept for ever in facts: they are only added.

    Those of errors are the codes of those errors.
    """

    # Why a run is placed where it is.
    BY_SENDER = "by-sender"
    NO_BALANCER = "no-balancer"
    BALANCER = "balancer"
    BALANCER_FAILED = "balancer-failed"
    UNKNOWN_NODE = "unknown-node"
    UNFIT_PEER = "unfit-peer"
    PARENT = "parent"

    # What came of an offer to a peer.
    RECEIPT = "receipt"
    PLAIN_PEER = "plain-peer"
    NO_RECEIPT = "no-receipt"
    OFFER_REFUSED = "offer-refused"
    PEER_UNREACHABLE = "peer-unreachable"
    PEER_SILENT = "peer-silent"
    PEER_GONE = "peer-gone"
    PEER_REPLACED = "peer-replaced"

    # Why a step failed.
    STATUS = "status"
    NOT_EXPECTED = "not-expected"
    CONNECT_FAILED = "connect-failed"
    TIMED_OUT = "timed-out"
    BAD_REPLY = "bad-reply"
    REPLY_TOO_LARGE = "reply-too-large"
    CALL_FAILED = "call-failed"
    ANSWER_LOST = "answer-lost"
    PUBLISH_FAILED = "publish-failed"
    SUB_FLOW = "sub-flow"
    DEADLOCK = "deadlock"
    CANNOT_EVALUATE = "cannot-evaluate"
    TOO_MANY_VALUES = "too-many-values"
    NOT_CONFIGURED = "not-configured"

    # Why a run ended, or waits, without a step that failed.
    DEADLINE = "deadline"
    STALE = "stale"
    SUPERSEDED = "superseded"
    OLD = "old"

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

    # Enum's own hash and value are Python functions.
    __hash__ = str.__hash__

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def _missing_(cls, value: object) -> Cause:  # noqa: ARG003 - the name is Enum's
        """A cause that a later release has written, or the code of an error that is none."""
        return cls.OTHER

    @classmethod
    def of(cls, error: FractalError) -> Cause:
        """The cause that an error is."""
        return cls(error.code)


class Answered(msgspec.Struct, frozen=True, gc=False):
    """How a request was answered that failed its step: as much as is kept of it.

    ``location`` is where a redirect points, ``begin`` how the body begins, where it is text; runs
    of white space are one space in it.
    """

    status: int
    location: str | UnsetType = UNSET
    begin: str | UnsetType = UNSET


class Failure(msgspec.Struct, frozen=True, gc=False):
    """Why something failed. ``cause`` is not set where an older release has written of it."""

    cause: Cause | UnsetType
    reason: str
    answer: Answered | UnsetType = UNSET

    @classmethod
    def of(cls, error: FractalError) -> Failure:
        """What an error says."""
        return cls(Cause.of(error), error.reason)
