"""Exceptions of connections to the broker."""

from __future__ import annotations

from fractal_rm.adapters.mqtt.connect_options import ConnectResult
from fractal_rm.domain.call_errors import PublishFailed


class NotConnected(Exception):
    """Connecting or subscribing failed.

    ``result`` is the result of the CONNECT packet. ``closed_by_broker``: the broker closed the
    connection, and no message that we sent can be the cause. ``topic_filter`` is the filter of the
    subscription that was requested when the connection ended.
    """

    def __init__(
        self,
        reason: str,
        result: ConnectResult = ConnectResult.OTHER,
        *,
        closed_by_broker: bool = False,
        topic_filter: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.result = result
        self.closed_by_broker = closed_by_broker
        self.topic_filter = topic_filter


class ConnectionLost(PublishFailed):
    """The connection ended before the broker sent a PUBACK for the message.

    ``closed_by_broker``: the broker closed the connection, perhaps because of the message.
    ``alone``: in addition, no other message that we had sent was unacknowledged.
    """

    code = "link-gone"

    def __init__(self, reason: str, *, closed_by_broker: bool = False, alone: bool = False) -> None:
        super().__init__(reason)
        self.closed_by_broker = closed_by_broker
        self.alone = closed_by_broker and alone
