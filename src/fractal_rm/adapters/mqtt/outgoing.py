"""Messages of ours that the broker has not acknowledged yet: at most as many as it will have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fractal_rm.domain.errors import PublishFailed

AT_ONCE = 500
_FOR_OTHERS = 4  # packet ids: the node's status, and a subscription that changes meanwhile


class Outgoing:
    """``send`` packs and sends a message, and returns its packet id."""

    def __init__(self) -> None:
        self._window = asyncio.Semaphore(1)
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._ended: str | None = None

    def allow(self, receive_maximum: int) -> None:
        """Take up the broker's Receive Maximum (MQTT 5, 3.2.2.3.3)."""
        self._window = asyncio.Semaphore(max(1, min(receive_maximum - _FOR_OTHERS, AT_ONCE)))

    async def publish(self, send: Callable[[], int]) -> None:
        """Send one, and wait for its PUBACK. Raises PublishFailed."""
        async with self._window:
            if self._ended is not None:
                raise PublishFailed(self._ended)
            packet_id = send()
            acknowledged = asyncio.get_running_loop().create_future()
            self._waiting[packet_id] = acknowledged
            try:
                reason_code = await acknowledged
            finally:
                if self._waiting.get(packet_id) is acknowledged:
                    del self._waiting[packet_id]
        if reason_code >= 0x80:
            raise PublishFailed(
                f"the broker refuses it: reason code 0x{reason_code:02x}", final=True
            )

    def on_puback(self, data: bytes) -> None:
        """A PUBACK packet came (MQTT 5, 3.4); in MQTT 3.1.1 it has no reason code."""
        waiting = self._waiting.get(int.from_bytes(data[:2], "big"))
        if waiting is not None and not waiting.done():
            waiting.set_result(data[2] if len(data) > 2 else 0)

    def end(self, reason: str) -> None:
        """The connection is gone: nobody knows what became of them."""
        self._ended = reason
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(PublishFailed(reason))
