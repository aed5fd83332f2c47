"""What can go wrong with a connection to the broker."""

from __future__ import annotations

from fractal_rm.adapters.mqtt.connect_options import ConnectResult
from fractal_rm.domain.call_errors import PublishFailed


class NotConnected(Exception):
    """Connecting or subscribing failed.

    ``result`` is what became of the CONNECT packet. ``cut``: the broker closed the connection
    while no message of ours was unacknowledged. ``topic_filter`` is the filter for which a
    subscription was requested at that moment.
    """

    def __init__(
        self,
        reason: str,
        result: ConnectResult = ConnectResult.OTHER,
        *,
        cut: bool = False,
        topic_filter: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.result = result
        self.cut = cut
        self.topic_filter = topic_filter


class ConnectionLost(PublishFailed):
    """The connection ended before the PUBACK.

    ``cut``: the broker closed it after the message was sent, perhaps because of the message.
    ``alone``: as ``cut``, and no other message of ours was unacknowledged.
    """

    code = "link-gone"

    def __init__(self, reason: str, *, cut: bool = False, alone: bool = False) -> None:
        super().__init__(reason)
        self.cut = cut
        self.alone = cut and alone
