"""Messages that the broker sends again, marked DUP.

On a connection that resumes our session the broker first redelivers unacknowledged messages:

    CONNACK ──> redelivered messages ──the first new message──> only new ones

NATS servers also redeliver them on the same connection, by a timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fractal_rm.adapters.mqtt.acknowledged import DUP, AcknowledgedMessages
from fractal_rm.adapters.mqtt.packets import Packet
from fractal_rm.adapters.mqtt.pubacks import Pubacks
from fractal_rm.adapters.mqtt.publish_packet import Message

QUIET_AFTER_S = 1.0


class Redelivery:
    """Recognizes redelivered messages, and counts them for the log.

    ``report`` is called when no redelivered message has come for a while. The counts are since the
    last report: ``messages`` is all of them, ``recognized`` those that were certainly handled
    before, ``uncertain`` those that perhaps were.
    """

    def __init__(
        self,
        acknowledged: AcknowledgedMessages,
        pubacks: Pubacks,
        report: Callable[[Redelivery], None],
    ) -> None:
        self._acknowledged = acknowledged
        self._pubacks = pubacks
        self._report = report
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = False  # no redelivered message has come for a while
        self._from_before = 0  # how many came that were sent on an earlier connection
        self.resumed = False  # whether the broker had kept our session
        self.no_new_yet = False  # resumed, and no new message has come
        self.messages = self.recognized = self.uncertain = 0

    def begin(self, *, resumed: bool, mqtt_5: bool) -> None:
        """The broker has accepted the connection; ``resumed``: it had kept our session."""
        self.resumed = self.no_new_yet = resumed
        if resumed:
            self._acknowledged.resumed_session(mqtt_5=mqtt_5)
        else:
            self._acknowledged.new_session(mqtt_5=mqtt_5)

    def recognizes(self, packet: Packet, packet_id: int | None, message: Message) -> bool:
        """Whether a message was handled before and needs no second run. It gets its PUBACK.

        Call it for messages that are marked DUP, and for all of them while ``no_new_yet``.
        """
        if packet_id is None:
            return False
        if not packet.first & DUP:
            self._acknowledged.first_new(packet_id, position=self._from_before + 1)
            self.no_new_yet = False
            self._report_now()
            return False
        self.messages += 1
        self._report_later()
        if self._pubacks.owes(packet_id, message):  # one PUBACK will answer both
            self.recognized += 1
            return True
        self._from_before += self.no_new_yet
        known = self._acknowledged.has(packet_id, message, no_new_yet=self.no_new_yet)
        if known:
            self.recognized += 1
            self._pubacks.add((packet_id, message))
        elif known is None and message.key is None:  # a trigger id is one run in any case
            self.uncertain += 1
        return bool(known)

    def end(self, *, silent: bool) -> None:
        """The connection has ended; the broker may redeliver the rest on the next one.

        ``silent``: without a CONNACK. The broker may have sent messages on this connection.
        """
        if silent:
            self._acknowledged.forget()
        if self.no_new_yet and not self._quiet:
            self._acknowledged.incomplete()
        self._report_now()

    def _report_later(self) -> None:
        self._quiet = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(QUIET_AFTER_S, self._report_now)

    def _report_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._quiet = True
            self._report(self)
            self.messages = self.recognized = self.uncertain = 0
