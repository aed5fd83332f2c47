"""Handles messages that the broker sends again, marked DUP.

On a connection that resumes our session, the broker first redelivers unacknowledged messages:

    CONNACK ──> redelivered messages ──the first new message──> only new ones

After a time limit, NATS servers also redeliver a message on the connection on which they sent it.
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

    ``report`` is called when no redelivered message has come for a while. These numbers are counted
    since the last report: ``messages`` counts all redelivered messages, ``recognized`` the messages
    that were certainly handled before, ``uncertain`` those that may have been handled before.
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
        self._report_timer: asyncio.TimerHandle | None = None
        self._reported = False  # no redelivered message has come since the last report
        self._from_earlier_connections = 0  # messages first sent on an earlier connection
        self.resumed = False  # the broker has resumed our session
        # The broker has resumed our session, and only redelivered messages have come so far.
        self.only_redelivered = False
        self.messages = self.recognized = self.uncertain = 0

    def begin(self, *, resumed: bool, mqtt_5: bool) -> None:
        """Note that the broker has accepted the connection, and whether it resumed our session."""
        self.resumed = self.only_redelivered = resumed
        if resumed:
            self._acknowledged.begin_resumed_session(mqtt_5=mqtt_5)
        else:
            self._acknowledged.begin_new_session(mqtt_5=mqtt_5)

    def acknowledge_known(self, packet: Packet, packet_id: int | None, message: Message) -> bool:
        """Acknowledge a message if it was certainly handled before; return whether it was.

        Call this for each message that is marked DUP, and for every message while
        ``only_redelivered`` is true.
        """
        if packet_id is None:
            return False
        if not packet.first_byte & DUP:
            self._acknowledged.note_first_new(
                packet_id, position=self._from_earlier_connections + 1
            )
            self.only_redelivered = False
            self._report_now()
            return False
        self.messages += 1
        self._report_later()
        if self._pubacks.is_pending(packet_id, message):  # one PUBACK acknowledges both copies
            self.recognized += 1
            return True
        self._from_earlier_connections += self.only_redelivered
        was_acknowledged = self._acknowledged.was_acknowledged(
            packet_id, message, only_redelivered=self.only_redelivered
        )
        if was_acknowledged:
            self.recognized += 1
            self._pubacks.add((packet_id, message))
        elif was_acknowledged is None and message.key is None:  # a trigger id ensures one run
            self.uncertain += 1
        return bool(was_acknowledged)

    def end(self, *, without_connack: bool) -> None:
        """Note that the connection has ended, and report.

        Each connection has its own report, as the broker may redeliver other messages on the next
        one. ``without_connack``: the connection ended before its CONNACK was received. The broker
        may have sent messages on it.
        """
        if without_connack:
            self._acknowledged.forget()
        if self.only_redelivered and not self._reported:
            self._acknowledged.mark_incomplete()
        self._report_now()

    def _report_later(self) -> None:
        self._reported = False
        if self._report_timer is not None:
            self._report_timer.cancel()
        self._report_timer = asyncio.get_running_loop().call_later(QUIET_AFTER_S, self._report_now)

    def _report_now(self) -> None:
        if self._report_timer is not None:
            self._report_timer.cancel()
            self._report_timer = None
            self._reported = True
            self._report(self)
            self.messages = self.recognized = self.uncertain = 0
