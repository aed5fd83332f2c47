"""The messages of one connection that have no answer yet: how many there may be, and how they end.

    read ──take──> durable ──> acknowledged
           │  ^
    no room│  │room
           └──┘

When the connection ends in order, what is being taken is answered, and what waits for room is let
go, as the broker has it still.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from fractal_rm.adapters.mqtt.answered import Answered, Numbered, same
from fractal_rm.adapters.mqtt.publish_packet import Message

# Reading stops while so much is unanswered, however few messages that is: memory stays bounded.
MOST_BYTES = 16 * 1024 * 1024
_PUBACK = struct.Struct("!BBH")

Take = Callable[[Sequence[Message]], Awaitable[Sequence[bool]]]


class Gate(Protocol):
    """Where messages come from, as far as it can be shut."""

    held: bool

    def hold(self) -> None:
        """Let no more come."""

    def release(self) -> None:
        """Let them come again."""


class Unanswered:
    """A message is offered to ``take`` until it says that it is durable; then it is acknowledged.

    Those that were read in one turn of the loop are offered together. Between two offers of a
    message ``wait_for_room`` is waited for, which comes to how many milliseconds that took.
    ``most``: the gate is shut when so many are here, as MQTT 3.1.1 has no Receive Maximum. ``send``
    takes PUBACK packets; ``answered`` is told of each, even after the end of the connection.
    """

    def __init__(
        self,
        take: Take,
        wait_for_room: Callable[[], Awaitable[int]],
        most: int,
        gate: Gate,
        send: Callable[[bytes], None],
        answered: Answered,
    ) -> None:
        self._take = take
        self._wait_for_room = wait_for_room
        self._most = most
        self._gate = gate
        self._send = send
        self._noted = answered
        self._loop = asyncio.get_running_loop()
        self._by_id: dict[int | None, Message] = {}  # those without a PUBACK
        self._arrived: list[Numbered] = []  # in this turn
        self._taking: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Task[None]] = set()  # for room
        self._count = self._bytes = 0
        self._counted = False
        self._ending = False
        self._acknowledged: list[Numbered] = []

    def add(self, packet_id: int | None, message: Message) -> None:
        """See to a message; without a packet id nobody waits for the answer."""
        if not self._arrived:
            self._loop.call_soon(self._take_arrived)
        self._arrived.append((packet_id, message))
        if packet_id is not None:
            self._by_id[packet_id] = message
        self._count += 1
        self._bytes += len(message.body)
        if self._full():
            self._gate.hold()

    def count(self) -> None:
        """From now on so many messages shut the gate, too, and not only their bytes.

        While a connection is opened, what comes again may stand before the answer to SUBSCRIBE.
        """
        self._counted = True
        if self._full():
            self._gate.hold()

    async def finish(self, limit_s: float) -> None:
        """Take no more, and answer what is being taken.

        It becomes durable in any case: without its answer it would come again, and run twice.
        """
        self._gate.hold()
        self.let_go()
        await self.settle(limit_s)

    async def settle(self, limit_s: float) -> None:
        """Wait until what is being taken has its answer, or for so long."""
        if self._taking:
            await asyncio.wait(self._taking, timeout=limit_s)
        if self._taking:
            self._noted.incomplete()
        self._send_acknowledgements()

    def has(self, packet_id: int, message: Message) -> bool:
        """Whether this message is here: its packet id is for no other before the PUBACK."""
        return same(self._by_id.get(packet_id), message)

    def answer(self, packet_id: int, message: Message) -> None:
        """Acknowledge a message that was taken before."""
        self._acknowledge((packet_id, message))

    def let_go(self) -> None:
        """Offer nothing any more."""
        self._ending = True
        for task in self._waiting:
            task.cancel()

    def _take_arrived(self) -> None:
        arrived, self._arrived = self._arrived, []
        if not self._ending:
            self._begin(self._offer(arrived), self._taking)

    def _begin(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]) -> None:
        task = self._loop.create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)

    async def _offer(self, messages: Sequence[Numbered]) -> None:
        durable = await self._take([message for _, message in messages])
        for numbered, done in zip(messages, durable, strict=True):
            if done:
                self._answered(numbered)
            else:
                # Not acknowledged, so the broker keeps it, and Receive Maximum slows it down.
                if numbered[1].begun:
                    self._noted.incomplete()
                self._begin(self._offer_again(numbered), self._waiting)
        if self._gate.held and not self._ending and not self._full():
            self._gate.release()

    async def _offer_again(self, numbered: Numbered) -> None:
        """One for which there was no room: by itself, when there may be some."""
        if not self._ending:
            numbered[1].waited_ms += await self._wait_for_room()
            self._begin(self._offer((numbered,)), self._taking)

    def _answered(self, numbered: Numbered) -> None:
        if numbered[0] is not None:
            self._acknowledge(numbered)
        self._count -= 1
        self._bytes -= len(numbered[1].body)

    def _full(self) -> bool:
        return (self._counted and self._count >= self._most) or self._bytes >= MOST_BYTES

    def _acknowledge(self, numbered: Numbered) -> None:
        """What is acknowledged in one turn of the loop goes out together."""
        if not self._acknowledged:
            self._loop.call_soon(self._send_acknowledgements)
        self._acknowledged.append(numbered)

    def _send_acknowledgements(self) -> None:
        """PUBACK (MQTT 5, 3.4)."""
        batch = self._acknowledged
        if batch:
            self._acknowledged = []
            self._noted.note(batch)
            for packet_id, _ in batch:
                self._by_id.pop(packet_id, None)
            self._send(b"".join([_PUBACK.pack(0x40, 2, packet_id) for packet_id, _ in batch]))
