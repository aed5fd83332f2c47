"""Remembers acknowledged messages, to recognize them when the broker redelivers them.

If the broker has no PUBACK for a message when the connection ends, the broker sends the message
again, marked DUP, with the same packet id (MQTT 5, 4.4). This node acknowledges such a message
without a second run only if all of this is true:

- The message was acknowledged on the previous connection, and the broker has resumed the session.
  A message that was acknowledged on an older connection does not count: after a crash, the broker
  may use the packet ids of that connection again. (In this rule, a connection that ended before its
  CONNACK counts as a connection, too.)
- The packet id, the topic and the content are equal.
- The broker has used a packet id above the number of messages that can be unacknowledged. This
  proves that it does not always choose the lowest free packet id. A broker that always chooses the
  lowest id may have sent a new, equal message with the packet id that the PUBACK has freed. If the
  new message never arrived, the broker sends it again, and it looks like the acknowledged message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from fractal_rm.adapters.mqtt.publish_packet import Message

DUP = 0x08
MAX_BYTES = 4 * 1024 * 1024

NumberedMessage = tuple["int | None", Message]  # the packet id (None at QoS 0) and the message


class AcknowledgedMessages:
    """The last messages that were acknowledged on the current and on the previous connection.

    ``window`` is how many messages can be unacknowledged at the same time (MQTT 5, 4.9). It is not
    smaller than our Receive Maximum. If more messages than ``window`` were acknowledged, the oldest
    ones are dropped, since the broker has their PUBACKs.

    `Message.topic` is None for a message on ``trigger_topic``.
    """

    def __init__(self, window: int, trigger_topic: str = "") -> None:
        self._trigger_topic = trigger_topic
        self._mqtt_5 = True  # whether the current connection uses MQTT 5
        self._current = _RecentMessages(window)
        # False if `_current` may lack acknowledged messages, for example those of an earlier
        # process.
        self._complete = False
        # The messages acknowledged on the previous connection, by packet id.
        self._previous_by_id: dict[int, Message] = {}
        self._previous_bodies: frozenset[bytes] = frozenset()
        self._previous_complete = False
        # The hashes of the bodies from older connections, by packet id.
        self._earlier_hashes: dict[int, int] = {}
        # Whether the broker has certainly used a packet id that was not the lowest free one.
        self._has_used_higher_id = False

    def add(self, batch: Sequence[NumberedMessage]) -> None:
        """Remember messages for which PUBACKs are sent now."""
        if not self._current.add(batch):
            self._complete = False

    def begin_new_session(self, *, mqtt_5: bool) -> None:
        """Forget everything: the broker has begun a new session, which has no earlier messages."""
        self.forget()
        self._complete, self._mqtt_5 = True, mqtt_5

    def forget(self) -> None:
        """Forget everything, as the next connection may have another session."""
        self._current.clear()
        self._previous_by_id = {}
        self._earlier_hashes.clear()
        self._has_used_higher_id = self._complete = False

    def mark_incomplete(self) -> None:
        """Note that a message was handled but is not in this list. It may be redelivered."""
        self._complete = False

    def begin_resumed_session(self, *, mqtt_5: bool) -> None:
        """Begin a new connection on which the broker has resumed the session.

        If the MQTT version has changed, the list counts as incomplete: a redelivered message has
        gained or lost its properties, so it differs from the remembered message.
        """
        mqtt_5_before, self._mqtt_5 = self._mqtt_5, mqtt_5
        if mqtt_5 != mqtt_5_before:
            self._complete = False
        self._earlier_hashes.update(
            (packet_id, hash(message.body)) for packet_id, message in self._previous_by_id.items()
        )
        self._previous_by_id = dict(self._current.by_id())
        self._previous_bodies = frozenset(each.body for each in self._previous_by_id.values())
        if mqtt_5_before and max(self._previous_by_id, default=0) > self._current.window:
            self._has_used_higher_id = True
        self._previous_complete, self._complete = self._complete, True
        self._current.clear()

    def note_first_new(self, packet_id: int, position: int) -> None:
        """Learn how the broker chooses packet ids, from the id of the first new message.

        ``position`` is the position of this message on the connection, counted from 1. A broker
        that uses the lowest free id would not use an id above ``position``.
        """
        if packet_id > position:
            self._has_used_higher_id = True

    def was_acknowledged(
        self, packet_id: int, message: Message, *, only_redelivered: bool
    ) -> bool | None:
        """Whether a redelivered message was acknowledged before; None if that is uncertain.

        ``only_redelivered``: the session was resumed, and only redelivered messages have come on
        this connection so far. If this is false, the result cannot be False: the message may have
        been sent first on this connection or several connections ago, since NATS servers redeliver
        by a timer. RabbitMQ may redeliver a message under another packet id.
        """
        in_current = same_message(self._current.by_id().get(packet_id), message)
        in_previous = same_message(self._previous_by_id.get(packet_id), message)
        if self._has_used_higher_id and (in_current or in_previous):
            return True
        if not only_redelivered:
            return True if in_current else None
        if in_current or self._earlier_hashes.get(packet_id) == hash(message.body):
            return None
        if self._previous_complete and (
            self._has_used_higher_id or message.body not in self._previous_bodies
        ):
            return False
        return None

    def reconfigured(self, window: int, trigger_topic: str) -> None:
        """Apply the values of a reloaded configuration. The window can grow, but not shrink."""
        self._current.window = max(self._current.window, window)
        old_topic = self._trigger_topic
        if trigger_topic == old_topic:
            return
        self._trigger_topic = trigger_topic

        def changed(message: Message) -> Message:
            topic = old_topic if message.topic is None else message.topic
            new_topic = None if topic == trigger_topic else topic
            return msgspec.structs.replace(message, topic=new_topic)

        self._previous_by_id = {
            packet_id: changed(message) for packet_id, message in self._previous_by_id.items()
        }
        self._current.replace_each(changed)


class _RecentMessages:
    """The last ``window`` acknowledged messages, or fewer if they exceed ``MAX_BYTES``."""

    def __init__(self, window: int) -> None:
        self.window = window
        self._batches: deque[tuple[Sequence[NumberedMessage], int]] = deque()
        self._count = self._bytes = 0
        self._by_id: dict[int, Message] | None = None  # built on demand

    def add(self, batch: Sequence[NumberedMessage]) -> bool:
        """Add messages. Returns False if messages within the window had to be dropped."""
        size = sum([len(message.body) for _, message in batch])
        self._batches.append((batch, size))
        self._by_id = None
        self._count += len(batch)
        self._bytes += size
        complete = True
        while len(self._batches) > 1:
            oldest, oldest_size = self._batches[0]
            if self._count - len(oldest) < self.window:  # the broker may lack PUBACKs of `oldest`
                if self._bytes <= MAX_BYTES:
                    break
                complete = False
            self._batches.popleft()
            self._count -= len(oldest)
            self._bytes -= oldest_size
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

    def replace_each(self, new_version: Callable[[Message], Message]) -> None:
        """Replace each message by its new version."""
        self._batches = deque(
            ([(packet_id, new_version(each)) for packet_id, each in batch], size)
            for batch, size in self._batches
        )
        self._by_id = None

    def clear(self) -> None:
        """Drop all messages."""
        self._batches.clear()
        self._count = self._bytes = 0
        self._by_id = None


def same_message(earlier: Message | None, message: Message) -> bool:
    """Whether two messages are equal in everything that the publisher has set.

    Expiry intervals are not compared: the broker subtracts the waiting time from the interval each
    time that it sends the message.
    """
    return earlier is not None and (
        earlier.body, earlier.topic, earlier.key, _without_expiry(earlier),
    ) == (message.body, message.topic, message.key, _without_expiry(message))  # fmt: skip


def _without_expiry(message: Message) -> object:
    return message.metadata and msgspec.structs.replace(message.metadata, left_ms=None)
