"""Errors of what is sent to others: calls, offers to peers, and messages to brokers."""

from __future__ import annotations

from fractal_rm.domain.errors import FractalError


class CallFailed(FractalError):
    """No reply could be had.

    ``sent`` tells whether a byte of the request may have left: only a call that was not sent is
    known not to have had an effect.
    """

    code = "call-failed"

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class ConnectFailed(CallFailed):
    """No connection: refused, unreachable, TLS refused, not within the connect limit.

    Or one that was closed before anything was sent on it.
    """

    code = "connect-failed"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class CallTimedOut(CallFailed):
    """The total time limit of the call ended first."""

    code = "timed-out"


class BadReply(CallFailed):
    """The answer is not HTTP/1.1, or it ended early."""

    code = "bad-reply"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=True)


class ReplyTooLarge(CallFailed):
    """The answer is larger than ``max_response_bytes``."""

    code = "reply-too-large"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=True)


class PublishFailed(FractalError):
    """No broker took a message: none is connected, or it did not acknowledge in time.

    ``final``: it was refused, and will be refused again.
    """

    code = "publish-failed"

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class OfferRefused(FractalError):
    """A peer answered an offer with an error status.

    ``looked``: it is one of ours, and says so after it has looked into its journal.
    """

    code = "offer-refused"

    def __init__(self, message: str, status: int, *, looked: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.looked = looked
