"""Errors of HTTP calls, and errors in publishing a message."""

from __future__ import annotations

from fractal_rm.domain.errors import FractalError


class CallFailed(FractalError):
    """A call got no usable response.

    If ``sent`` is true, a part of the request may have been sent, so the call may have had an
    effect. If ``sent`` is false, the call had no effect.
    """

    code = "call-failed"

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class ConnectFailed(CallFailed):
    """There was no connection for the call, so nothing was sent.

    There is one exception: ``sent`` is true if the server closed a used connection, and then no new
    connection was made. The server may have read the request on the connection that it closed.

    For example, the server refused the connection, was unreachable or was too slow, TLS failed, or
    the connection was closed before the request was sent.
    """

    code = "connect-failed"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class CircuitOpen(CallFailed):
    """The circuit of the component is open, and enough other calls wait. Nothing was sent."""

    code = "circuit-open"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class AnswerLost(CallFailed):
    """The answer of a call was lost: in a crash, or before the component was asked about it.

    If ``sent`` is false, the component said that it has not executed the call.
    """

    code = "answer-lost"


class CallTimedOut(CallFailed):
    """The call was not complete within its time limit."""

    code = "timed-out"


class BadReply(CallFailed):
    """The response is not valid HTTP/1.1, or is not complete."""

    code = "bad-reply"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=True)


class ReplyTooLarge(CallFailed):
    """The response is larger than ``max_response_bytes``."""

    code = "reply-too-large"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=True)


class PublishFailed(FractalError):
    """No broker is connected, or the broker did not acknowledge the message in time.

    If ``final`` is true, the broker refused the message and would refuse it again.
    """

    code = "publish-failed"

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final
