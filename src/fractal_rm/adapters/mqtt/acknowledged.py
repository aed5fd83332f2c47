"""Messages that were acknowledged: which redelivered message is one of them.

A broker that has no PUBACK for a message when the connection ends sends it again, marked DUP, with
the same packet id (MQTT 5, 4.4). It is acknowledged without a second run only if it is certainly
the same trigger:

- The broker has resumed the session, and this is the next connection. A broker that crashed may
  have gone back in its packet ids, and a CONNECT without a CONNACK may have been such a connection.
  What may belong to an earlier connection is uncertain.
- Packet id, topic and content are equal.
- The broker does not give the lowest free packet id to its next message. If it does, an equal
  message may have followed under the same id and been lost on its way. A packet id greater than the
  number of messages that can be unacknowledged shows that it does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from fractal_rm.adapters.mqtt.publish_packet import Message

DUP = 0x08
MAX_BYTES = 4 * 1024 * 1024

NumberedMessage = tuple["int | None", Message]  # with its packet id


class AcknowledgedMessages:
    """The last messages acknowledged on the current connection, and on the one before it.

    ``window`` is how many messages can be unacknowledged, at least our Receive Maximum (MQTT 5,
    4.9): of more than that, the broker has the PUBACK of the oldest. A message on
    ``trigger_topic`` has no topic (`Message.topic` is None).
    """

    def __init__(self, window: int, trigger_topic: str = "") -> None:
        self._trigger_topic = trigger_topic
        self._mqtt_5 = True  # on the current connection
        self._current = _Batches(window)
        self._complete = False  # an earlier process may have acknowledged messages, too
        self._previous: dict[int, Message] = {}  # of the connection before, by packet id
        self._previous_bodies: frozenset[bytes] = frozenset()
        self._previous_complete = False
        self._older: dict[int, int] = {}  # of earlier connections: hashes of bodies, by packet id
        self._ids_increase = False  # the broker is known not to use the lowest free packet id

    def add(self, batch: Sequence[NumberedMessage]) -> None:
        """PUBACKs are sent for these."""
        if not self._current.add(batch):
            self._complete = False

    def new_session(self, *, mqtt_5: bool) -> None:
        """The broker has begun a new session: no message of it came before."""
        self.forget()
        self._complete, self._mqtt_5 = True, mqtt_5

    def forget(self) -> None:
        """Forget everything: it may not apply to the session of the next connection."""
        self._current.clear()
        self._previous = {}
        self._older.clear()
        self._ids_increase = self._complete = False

    def incomplete(self) -> None:
        """The next connection may bring a message that was handled and is not in this list."""
        self._complete = False

    def resumed_session(self, *, mqtt_5: bool) -> None:
        """The broker has resumed the session on a new connection.

        If the MQTT version has changed, a redelivered message has gained or lost its properties
        and looks like another one.
        """
        mqtt_5_before, self._mqtt_5 = self._mqtt_5, mqtt_5
        if mqtt_5 != mqtt_5_before:
            self._complete = False
        self._older.update((at, hash(message.body)) for at, message in self._previous.items())
        self._previous = dict(self._current.by_id())
        self._previous_bodies = frozenset(each.body for each in self._previous.values())
        if mqtt_5_before and max(self._previous, default=0) > self._current.window:
            self._ids_increase = True
        self._previous_complete, self._complete = self._complete, True
        self._current.clear()

    def first_new(self, packet_id: int, position: int) -> None:
        """The first new message after the redelivered ones, and its position on the connection.

        A broker that uses the lowest free id would have used all lower ids for the messages before
        it.
        """
        if packet_id > position:
            self._ids_increase = True

    def has(self, packet_id: int, message: Message, *, no_new_yet: bool) -> bool | None:
        """Whether a redelivered message was acknowledged before; None: perhaps.

        ``no_new_yet``: the session was resumed, and this connection has brought only redelivered
        messages so far. After a new message, a redelivered one repeats a message of this
        connection, or is late: it is never certainly unknown. NATS servers redeliver by a timer,
        so it can be late by several connections. A broker whose use of packet ids is not known may
        redeliver it under another id, as RabbitMQ does.
        """
        current = same_message(self._current.by_id().get(packet_id), message)
        previous = same_message(self._previous.get(packet_id), message)
        if self._ids_increase and (current or previous):
            return True
        if not no_new_yet:
            return current or None
        if current or self._older.get(packet_id) == hash(message.body):
            return None
        if self._previous_complete and (
            self._ids_increase or message.body not in self._previous_bodies
        ):
            return False
        return None

    def reconfigured(self, window: int, trigger_topic: str) -> None:
        """Apply the values after a reload. Of both windows the larger one counts."""
        self._current.window = max(self._current.window, window)
        before = self._trigger_topic
        if trigger_topic == before:
            return
        self._trigger_topic = trigger_topic

        def changed(message: Message) -> Message:
            topic = before if message.topic is None else message.topic
            return msgspec.structs.replace(message, topic=None if topic == trigger_topic else topic)

        self._previous = {at: changed(message) for at, message in self._previous.items()}
        self._current.change(changed)


class _Batches:
    """The last acknowledged messages: as many as ``window``, as long as ``MAX_BYTES`` allow."""

    def __init__(self, window: int) -> None:
        self.window = window
        self._batches: deque[tuple[Sequence[NumberedMessage], int]] = deque()
        self._count = self._bytes = 0
        self._by_id: dict[int, Message] | None = None  # built on demand

    def add(self, batch: Sequence[NumberedMessage]) -> bool:
        """Returns False if messages within the window had to be dropped."""
        size = sum([len(message.body) for _, message in batch])
        self._batches.append((batch, size))
        self._by_id = None
        self._count += len(batch)
        self._bytes += size
        complete = True
        while len(self._batches) > 1:
            oldest, size = self._batches[0]
            if self._count - len(oldest) < self.window:  # the broker may not have these PUBACKs
                if self._bytes <= MAX_BYTES:
                    break
                complete = False
            self._batches.popleft()
            self._count -= len(oldest)
            self._bytes -= size
        return complete

    def by_id(self) -> Mapping[int, Message]:
        """The messages by their packet ids."""
        if self._by_id is None:
            self._by_id = {
                packet_id: message
                for batch, _ in self._batches
                for packet_id, message in batch
                if packet_id is not None
            }
        return self._by_id

    def change(self, changed: Callable[[Message], Message]) -> None:
        """Replace each message."""
        self._batches = deque(
            ([(packet_id, changed(each)) for packet_id, each in batch], size)
            for batch, size in self._batches
        )
        self._by_id = None

    def clear(self) -> None:
        """Drop all messages."""
        self._batches.clear()
        self._count = self._bytes = 0
        self._by_id = None


def same_message(known: Message | None, message: Message) -> bool:
    """Whether all that the publisher has set is equal, without the expiry interval.

    The broker subtracts waiting time from the expiry interval each time that it sends a message.
    """
    return known is not None and (
        known.body, known.topic, known.key, _without_expiry(known),
    ) == (message.body, message.topic, message.key, _without_expiry(message))  # fmt: skip


def _without_expiry(message: Message) -> object:
    return message.metadata and msgspec.structs.replace(message.metadata, left_ms=None)
