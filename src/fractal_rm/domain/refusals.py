"""Refusals: why a trigger is not accepted. One table for REST, MQTT and hand-offs.

``status`` and ``title`` are the HTTP answer (RFC 9457 problem details). ``final`` decides over
MQTT: a final refusal would be repeated for the same message, so the message becomes a dead letter
and is acknowledged. Any other refused message is left unacknowledged, and the broker keeps it.
"""

from __future__ import annotations

from typing import ClassVar

from fractal_rm.domain.errors import FractalError


class Refused(FractalError):
    """A trigger is not accepted."""

    code = "refused"
    status: ClassVar[int] = 400
    title: ClassVar[str] = "Refused"
    final: ClassVar[bool] = True
    retry_after_s: int | None = None


class Malformed(Refused):
    """The content is not valid JSON (see `domain.strict_json`)."""

    code = "malformed"
    status = 400
    title = "The message is not valid JSON"


class TooLarge(Refused):
    """The content has more bytes than ``max_trigger_bytes``."""

    code = "too-large"
    status = 413
    title = "The message is too large"


class WrongContentType(Refused):
    """The content type is not JSON (REST only)."""

    code = "wrong-content-type"
    status = 415
    title = "The content type must be application/json"


class WrongContentCoding(Refused):
    """The content is compressed (REST only; RFC 9110, 15.5.16)."""

    code = "wrong-content-coding"
    status = 415
    title = "The content must be sent as it is, without a coding"


class WrongShape(Refused):
    """The content is JSON, but a key is missing or has the wrong type."""

    code = "wrong-shape"
    status = 422
    title = "The message has the wrong shape"


class UnknownFlow(Refused):
    """No flow with this id is in flows.conf."""

    code = "unknown-flow"
    status = 404
    title = "There is no such flow"


class KeyReused(Refused):
    """The trigger id was used within the window, with other content."""

    code = "key-reused"
    status = 422
    title = "This trigger id was used for another message"


class OwnRun(Refused):
    """A hand-off offers a run to the node that offered it."""

    code = "own-run"
    status = 409
    title = "This run was offered by this node"


class Busy(Refused):
    """A bound of the node is reached. Nothing was accepted; send the trigger again later."""

    code = "busy"
    status = 503
    title = "Too much is waiting"
    final = False

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(Busy):
    """The node is stopping."""

    code = "draining"
    title = "The node is stopping"


class JournalUnavailable(Busy):
    """The journal cannot be written now, for example because the disk is full."""

    code = "journal-unavailable"
    title = "The journal cannot be written at the moment"


class InternalFault(Refused):
    """An error in this program. The message is kept as a dead letter."""

    code = "internal"
    status = 500
    title = "A fault in the Runtime Manager"
