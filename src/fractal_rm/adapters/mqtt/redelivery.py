"""What a broker sends again, marked DUP.

On a connection that resumes our session it begins with what had no answer on the one before.

CONNACK ──> what comes again ──the first new message──> over

Some repeat by the clock, on the same connection, what has no answer yet: NATS servers do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fractal_rm.adapters.mqtt.answered import DUP, Answered
from fractal_rm.adapters.mqtt.packets import Packet
from fractal_rm.adapters.mqtt.publish_packet import Message
from fractal_rm.adapters.mqtt.unanswered import Unanswered

QUIET_AFTER_S = 1.0


class Redelivery:
    """``tell`` hears how many came again, when no more have come for a while.

    Since it heard that last, ``again`` counts them, ``known`` those that were certainly taken
    before, and ``in_doubt`` those that may have been.
    """

    def __init__(
        self,
        answered: Answered,
        unanswered: Unanswered,
        tell: Callable[[Redelivery], None],
    ) -> None:
        self._answered = answered
        self._unanswered = unanswered
        self._tell = tell
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = False  # after something came again, nothing has for a while
        self._came = 0  # again, of the connection before
        self.session = self.going_on = False
        self.again = self.known = self.in_doubt = 0

    def begin(self, *, session: bool, mqtt_5: bool) -> None:
        """The broker has accepted the connection; ``session``: it had kept ours."""
        self.session = self.going_on = session
        if session:
            self._answered.resume(mqtt_5=mqtt_5)
        else:
            self._answered.begin(mqtt_5=mqtt_5)

    def settles(self, packet: Packet, packet_id: int | None, message: Message) -> bool:
        """Whether a message is one that was taken before, and needs no second run.

        To be asked for those that are marked DUP, and for all while it is ``going_on``.
        """
        if packet_id is None:
            return False
        if not packet.first & DUP:
            self._answered.first_new(packet_id, came=self._came + 1)
            self.going_on = False
            self._say()
            return False
        self.again += 1
        self._say_later()
        if self._unanswered.has(packet_id, message):  # the answer to that one is for both
            self.known += 1
            return True
        self._came += self.going_on
        known = self._answered.has(packet_id, message, going_on=self.going_on)
        if known:
            self.known += 1
            self._unanswered.answer(packet_id, message)
        elif known is None and message.key is None:  # a trigger id is one run, whenever it comes
            self.in_doubt += 1
        return bool(known)

    def end(self, *, silent: bool) -> None:
        """The connection has ended; what has not come again yet may do so on the next one.

        ``silent``: without a CONNACK. The broker may have sent messages by it.
        """
        if silent:
            self._answered.forget()
        if self.going_on and not self._quiet:
            self._answered.incomplete()
        self._say()

    def _say_later(self) -> None:
        self._quiet = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(QUIET_AFTER_S, self._say)

    def _say(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._quiet = True
            self._tell(self)
            self.again = self.known = self.in_doubt = 0
