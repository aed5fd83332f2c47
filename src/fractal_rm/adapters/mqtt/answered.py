"""Messages that come again: which of them this process has answered already.

A broker sends a message again where it has no PUBACK for it when a connection ends, marked DUP and
under the same packet id (MQTT 5, 4.4). That is the same trigger only where nothing else can be
meant. So what was answered last is kept over connections, and one that comes again is answered
without a second run if

- the broker has resumed the session, and that on the next connection: a broker that has crashed may
  have gone back in its packet ids (a CONNECT without a CONNACK may have been that connection).
  What may be of an earlier one is in doubt,
- packet id, topic and content are the same, and
- the broker is known not to use the lowest free packet id for the next message: an equal one may
  have followed under the same id, and been lost on its way. It is known where an id was greater
  than how many messages can have been without an answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from fractal_rm.adapters.mqtt.publish_packet import Message

DUP = 0x08
MOST_BYTES = 4 * 1024 * 1024

Numbered = tuple["int | None", Message]  # with its packet id


class Answered:
    """What was answered last on the connection that is open, or was before.

    ``at_once`` is how many messages can be without an answer: our Receive Maximum (MQTT 5, 4.9)
    at least. Of more the broker has an answer to the oldest. ``own`` is the topic for which
    messages have None.
    """

    def __init__(self, at_once: int, own: str = "") -> None:
        self._at_once = at_once
        self._own = own
        self._mqtt_5 = True  # of the connection that is open, or was before
        self._batches: deque[tuple[Sequence[Numbered], int]] = deque()
        self._count = self._bytes = 0
        self._here: Mapping[int, Message] | None = None  # those in it, when they were looked up
        self._ids_go_on = False
        self._is_all = False  # an earlier process may have answered messages, too
        self._before: Mapping[int, Message] = {}  # on the connection before, by packet id
        self._bodies_before: frozenset[bytes] = frozenset()
        self._before_is_all = False
        self._older: dict[int, int] = {}  # on earlier ones: hashes of bodies, by packet id

    def note(self, batch: Sequence[Numbered]) -> None:
        """PUBACKs leave for these."""
        size = sum([len(message.body) for _, message in batch])
        self._batches.append((batch, size))
        self._here = None
        self._count += len(batch)
        self._bytes += size
        while len(self._batches) > 1:
            oldest, size = self._batches[0]
            if self._count - len(oldest) < self._at_once:  # the broker may lack these answers
                if self._bytes <= MOST_BYTES:
                    break
                self._is_all = False
            self._batches.popleft()
            self._count -= len(oldest)
            self._bytes -= size

    def begin(self, *, mqtt_5: bool) -> None:
        """The broker has begun the session with this connection: nothing of it came before."""
        self.forget()
        self._is_all, self._mqtt_5 = True, mqtt_5

    def forget(self) -> None:
        """What this process has answered says nothing of the next connection's session."""
        self._clear()
        self._before = {}
        self._older.clear()
        self._ids_go_on = self._is_all = False

    def incomplete(self) -> None:
        """The next connection may bring a message that was answered, and is not known any more."""
        self._is_all = False

    def resume(self, *, mqtt_5: bool) -> None:
        """The broker goes on with the session on a new connection.

        In the other version of MQTT a message comes again with properties, or without, so that it
        does not look like the same one.
        """
        mqtt_5_before, self._mqtt_5 = self._mqtt_5, mqtt_5
        if mqtt_5 != mqtt_5_before:
            self._is_all = False
        self._older.update((at, hash(message.body)) for at, message in self._before.items())
        self._before = self._by_id()
        self._bodies_before = frozenset(each.body for each in self._before.values())
        if mqtt_5_before and max(self._before, default=0) > self._at_once:
            self._ids_go_on = True
        self._before_is_all, self._is_all = self._is_all, True
        self._clear()

    def has(self, packet_id: int, message: Message, *, going_on: bool) -> bool | None:
        """Whether a message that comes again was answered before; None: perhaps.

        ``going_on``: the connection has brought no message for the first time yet. After one, what
        comes again repeats what has come by this connection, or is late: it is never certainly new.
        NATS servers repeat by the clock, so that it may be late by several connections. A broker
        whose use of packet ids is not known may send it under another id: RabbitMQ does.
        """
        if self._here is None:
            self._here = self._by_id()
        here = same(self._here.get(packet_id), message)
        before = same(self._before.get(packet_id), message)
        if self._ids_go_on and (here or before):
            return True
        if not going_on:
            return here or None
        if here or self._older.get(packet_id) == hash(message.body):
            return None
        if self._before_is_all and (self._ids_go_on or message.body not in self._bodies_before):
            return False
        return None

    def reconfigured(self, at_once: int, own: str) -> None:
        """A reload may have changed these. What has come is judged by the larger ``at_once``."""
        self._at_once = max(self._at_once, at_once)
        if own == self._own:
            return
        self._before = {each: self._renamed(known, own) for each, known in self._before.items()}
        self._batches = deque(
            ([(packet_id, self._renamed(each, own)) for packet_id, each in batch], size)
            for batch, size in self._batches
        )
        self._here, self._own = None, own

    def _renamed(self, message: Message, own: str) -> Message:
        topic = self._own if message.topic is None else message.topic
        return msgspec.structs.replace(message, topic=None if topic == own else topic)

    def _by_id(self) -> dict[int, Message]:
        return {
            packet_id: message
            for batch, _ in self._batches
            for packet_id, message in batch
            if packet_id is not None
        }

    def _clear(self) -> None:
        self._batches.clear()
        self._count = self._bytes = 0
        self._here = None

    def first_new(self, packet_id: int, came: int) -> None:
        """A message came for the first time, as the ``came``-th of its connection.

        With the lowest free id, all lower ones would belong to messages that came before it.
        """
        if packet_id > came:
            self._ids_go_on = True


def same(known: Message | None, message: Message) -> bool:
    """All that a publisher has said; its expiry interval becomes less with each try."""
    return known is not None and (
        known.body, known.topic, known.key, _without_expiry(known),
    ) == (message.body, message.topic, message.key, _without_expiry(message))  # fmt: skip


def _without_expiry(message: Message) -> object:
    return message.said and msgspec.structs.replace(message.said, left_ms=None)
