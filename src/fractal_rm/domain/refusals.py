"""Refusals: the reasons why a trigger by REST or MQTT, or an offer, is not accepted.

``status`` and ``title`` are for the HTTP answer (RFC 9457, problem details). ``final`` is for MQTT.
A final refusal means that the same message would be refused again, so the message becomes a dead
letter and is acknowledged. After any other refusal, the message is not acknowledged, so the broker
keeps it.
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
    # The run and the epoch of an offer that this node has not taken, and will never take. After
    # OtherStore and Forgotten, it may have taken it earlier.
    refused_offer: tuple[str, int] | None = None


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
    title = "The content must not have a content coding"


class WrongShape(Refused):
    """The content is JSON, but a key is missing, or a value is not allowed."""

    code = "wrong-shape"
    status = 422
    title = "The content does not have the expected form"


class UnknownFlow(Refused):
    """flows.conf has no flow with this id."""

    code = "unknown-flow"
    status = 404
    title = "There is no such flow"


class KeyReused(Refused):
    """Within ``state.dedup_window_s``, the trigger id was already used with other content."""

    code = "key-reused"
    status = 422
    title = "This trigger id was used for another message"


class OwnRun(Refused):
    """A node got an offer of a run which it has offered itself."""

    code = "own-run"
    status = 409
    title = "This run was offered by this node"


class UnknownRun(Refused):
    """A request of an operator names a run that no journal of the node has (REST only)."""

    code = "unknown-run"
    status = 404
    title = "There is no such run"
    final = False


class OfferNotTaken(Refused):
    """An offer is not accepted. Offers come by REST only, so they never become dead letters."""

    code = "offer-not-taken"
    final = False


class OtherStore(OfferNotTaken):
    """An offer was addressed to another state folder. This node cannot know if it had the run."""

    code = "other-store"
    status = 409
    title = "The state folder of this node is not the one that the sender knows"


class OtherBoot(OfferNotTaken):
    """An offer was addressed to an earlier start of this node."""

    code = "other-boot"
    status = 409
    title = "The node has started again since the sender asked it"


class Forgotten(OfferNotTaken):
    """A repeated offer is older than the time for which this node remembers trigger ids."""

    code = "forgotten"
    status = 409
    title = "The node may have forgotten this run"


class RefusedBefore(OfferNotTaken):
    """An offer was refused before. Each copy of the same offer is refused, too."""

    code = "refused-before"
    status = 409
    title = "This offer was refused before"


class SameNodeId(OfferNotTaken):
    """The sender of an offer has the same node id as this node."""

    code = "same-node-id"
    status = 409
    title = "The two nodes have the same id"


class OtherDefinition(OfferNotTaken):
    """The flow of an offer is defined differently on this node."""

    code = "other-definition"
    status = 409
    title = "This node has another definition of the flow"


class Busy(Refused):
    """The node has reached one of its bounds. The sender may send the trigger again later."""

    code = "busy"
    status = 503
    title = "Too many runs wait, or they use too much memory"
    final = False

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(Busy):
    """The node is stopping, or an operator drains it."""

    code = "draining"
    title = "The node takes no new runs"


class Paused(Busy):
    """The node is paused, so it takes no run of another node. It still accepts triggers."""

    code = "paused"
    title = "The node is paused"


class JournalUnavailable(Busy):
    """The journal cannot be written now, for example because the disk is full."""

    code = "journal-unavailable"
    title = "The journal cannot be written at the moment"


class InternalFault(Refused):
    """An error in this program. The message becomes a dead letter."""

    code = "internal"
    status = 500
    title = "A fault in the Runtime Manager"
