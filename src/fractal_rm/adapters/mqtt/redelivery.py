"""What a broker sends again at the beginning of a connection that resumes our session.

CONNACK ──> what comes again, marked DUP ──the first new message, or none for a while──> over
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fractal_rm.adapters.mqtt.answered import DUP, Answered
from fractal_rm.adapters.mqtt.packets import Packet
from fractal_rm.adapters.mqtt.publish_packet import Message

OVER_AFTER_S = 1.0


class Redelivery:
    """``answer`` acknowledges a message without a run; ``tell`` hears how many came again.

    ``again`` counts them, ``known`` those that were certainly answered before, and ``in_doubt``
    those that may have been.
    """

    def __init__(
        self,
        answered: Answered,
        answer: Callable[[int, Message], None],
        tell: Callable[[Redelivery], None],
    ) -> None:
        self._answered = answered
        self._answer = answer
        self._tell = tell
        self._timer: asyncio.TimerHandle | None = None
        self.session = self.going_on = False
        self.again = self.known = self.in_doubt = 0

    def begin(self, *, session: bool, mqtt_5: bool) -> None:
        """The broker has accepted the connection; ``session``: it had kept ours."""
        self.session = self.going_on = session
        if session:
            self._answered.resume(mqtt_5=mqtt_5)
        else:
            self._answered.forget()

    def settles(self, packet: Packet, packet_id: int | None, message: Message) -> bool:
        """Whether a message has been acknowledged here, as one that was answered before."""
        if packet_id is None:
            return False
        if not packet.first & DUP:
            self._answered.first_new(packet_id, came=self.again + 1)
            self._over()
            return False
        self.again += 1
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(OVER_AFTER_S, self._over)
        known = self._answered.knows(packet_id, message)
        if known:
            self.known += 1
            self._answer(packet_id, message)
        elif known is None and message.key is None:  # a trigger id is one run, whenever it comes
            self.in_doubt += 1
        return bool(known)

    def end(self) -> None:
        """The connection has ended; what has not come again yet may do so on the next one."""
        if self.going_on:
            self._answered.incomplete()
            self._over()

    def _over(self) -> None:
        """No more comes again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.going_on = False
        if self.again:
            self._tell(self)
