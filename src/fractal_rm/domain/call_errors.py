"""Errors of what is sent to others: calls, and messages to brokers."""

from __future__ import annotations

from fractal_rm.domain.errors import FractalError


class CallFailed(FractalError):
    """There is no usable answer.

    ``sent``: a byte of the request may have been sent. Only a call that was not sent is known to
    have had no effect.
    """

    code = "call-failed"

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class ConnectFailed(CallFailed):
    """No connection was made: it was refused, unreachable, too slow, or failed in TLS.

    Or it was closed before anything was sent.
    """

    code = "connect-failed"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class CallTimedOut(CallFailed):
    """The time limit of the whole call has passed."""

    code = "timed-out"


class BadReply(CallFailed):
    """The answer is not valid HTTP/1.1, or not complete."""

    code = "bad-reply"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=True)


class ReplyTooLarge(CallFailed):
    """The answer is larger than ``max_response_bytes``."""

    code = "reply-too-large"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=True)


class PublishFailed(FractalError):
    """No broker is connected, or the broker did not acknowledge the message in time.

    ``final``: the broker refused the message, and would refuse it again.
    """

    code = "publish-failed"

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final
