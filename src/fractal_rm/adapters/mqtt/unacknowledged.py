"""The received messages of one connection that are not acknowledged yet.

    read ──admit──> durable ──> acknowledged
           │  ^
    no room│  │room
           └──┘

When this node closes the connection, messages that are being written are still acknowledged.
Messages that wait for room are dropped; the broker still has them, and redelivers them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from fractal_rm.adapters.mqtt.acknowledged import NumberedMessage
from fractal_rm.adapters.mqtt.pubacks import Pubacks
from fractal_rm.adapters.mqtt.publish_packet import Message
from fractal_rm.adapters.mqtt.receiver import Receiver

# Reading pauses at this many unacknowledged bytes, so that memory is bounded.
MAX_BYTES = 16 * 1024 * 1024


class PausableReader(Protocol):
    """Pauses and resumes reading from the connection."""

    paused: bool

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Continue reading."""


class UnacknowledgedMessages:
    """Offers each message to the receiver until it is durable, then acknowledges it.

    Messages read in one turn of the event loop are offered together. If there is no room for a
    message, it is offered again, without the others, when there may be room. ``on_incomplete`` is
    called if a message was handled completely or in part, but may have no PUBACK when the
    connection ends.
    """

    def __init__(
        self,
        receiver: Receiver,
        reader: PausableReader,
        pubacks: Pubacks,
        on_incomplete: Callable[[], None],
    ) -> None:
        self._receiver = receiver
        self._reader = reader
        self._pubacks = pubacks
        self._on_incomplete = on_incomplete
        self._max_count = math.inf  # no limit until the connection is open
        self._arrived: list[NumberedMessage] = []  # received in this turn of the event loop
        self._admitting: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Task[None]] = set()  # tasks that wait for room
        self._bytes = 0
        self._closing = False
        self.count = 0

    def add(self, packet_id: int | None, message: Message) -> None:
        """Handle a message. If its packet id is None (QoS 0), it gets no PUBACK."""
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._admit_arrived)
        self._arrived.append((packet_id, message))
        if packet_id is not None:
            self._pubacks.pending[packet_id] = message
        self.count += 1
        self._bytes += len(message.body)
        if self._full():
            self._reader.pause()

    def set_max_count(self, max_count: int) -> None:
        """From now on, pause reading while ``max_count`` messages are unacknowledged.

        Without this limit, MQTT 3.1.1 would have none, since it has no Receive Maximum. The limit
        does not apply until the connection is open: redelivered messages can come before the
        SUBACK.
        """
        self._max_count = max_count
        if self._full():
            self._reader.pause()

    async def finish(self, limit_s: float) -> None:
        """Admit no more messages, and acknowledge the messages that are being written.

        These become durable in any case. Without a PUBACK the broker would redeliver them, and they
        would run twice.
        """
        self._reader.pause()
        self.stop_offering()
        await self.settle(limit_s)

    async def settle(self, limit_s: float) -> None:
        """Wait up to ``limit_s`` until all messages that are being written are handled."""
        if self._admitting:
            await asyncio.wait(self._admitting, timeout=limit_s)
        if self._admitting:
            self._on_incomplete()
        self._pubacks.send()

    def stop_offering(self) -> None:
        """Offer no more messages to the receiver."""
        self._closing = True
        for task in self._waiting:
            task.cancel()

    def _admit_arrived(self) -> None:
        arrived, self._arrived = self._arrived, []
        if not self._closing:
            self._start(self._offer(arrived), self._admitting)

    def _start(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _offer(self, messages: Sequence[NumberedMessage]) -> None:
        durable = await self._receiver.admit([message for _, message in messages])
        for numbered, is_durable in zip(messages, durable, strict=True):
            if is_durable:
                self._done(numbered)
            else:
                _, message = numbered
                if message.started:
                    self._on_incomplete()
                # Until the PUBACK, the broker keeps the message, and sends fewer new messages
                # because of our Receive Maximum.
                self._start(self._offer_again(numbered), self._waiting)
        if self._reader.paused and not self._closing and not self._full():
            self._reader.resume()

    async def _offer_again(self, numbered: NumberedMessage) -> None:
        if not self._closing:
            _, message = numbered
            message.waited_ms += await self._receiver.wait_for_room()
            self._start(self._offer((numbered,)), self._admitting)

    def _done(self, numbered: NumberedMessage) -> None:
        packet_id, message = numbered
        if packet_id is not None:
            self._pubacks.add(numbered)
        self.count -= 1
        self._bytes -= len(message.body)

    def _full(self) -> bool:
        return self.count >= self._max_count or self._bytes >= MAX_BYTES
