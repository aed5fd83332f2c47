"""Handles the messages received on one connection, from the PUBLISH packet to the PUBACK."""

from __future__ import annotations

from collections.abc import Callable

from fractal_rm.adapters.mqtt.acknowledged import DUP, AcknowledgedMessages
from fractal_rm.adapters.mqtt.packets import Packet
from fractal_rm.adapters.mqtt.pubacks import Pubacks
from fractal_rm.adapters.mqtt.publish_packet import read_publish, topic_field
from fractal_rm.adapters.mqtt.receiver import Receiver
from fractal_rm.adapters.mqtt.redelivery import Redelivery
from fractal_rm.adapters.mqtt.unacknowledged import PausableReader, UnacknowledgedMessages
from fractal_rm.config.model import Mqtt
from fractal_rm.engine.ports import Telemetry


class IncomingMessages:
    """Reads the messages of one connection, recognizes redelivered ones, and acknowledges them.

    ``send`` sends PUBACK packets. ``acknowledged`` is shared by all connections of a session.
    """

    def __init__(
        self,
        mqtt: Mqtt,
        receiver: Receiver,
        reader: PausableReader,
        send: Callable[[bytes], None],
        acknowledged: AcknowledgedMessages,
        telemetry: Telemetry,
        *,
        mqtt_5: bool,
    ) -> None:
        self._mqtt_5 = mqtt_5
        self._trigger_field = topic_field(mqtt.topic)
        self._telemetry = telemetry
        self._counting = receiver.counting
        pubacks = Pubacks(send, acknowledged)
        self.unacknowledged = UnacknowledgedMessages(
            receiver, reader, pubacks, acknowledged.mark_incomplete
        )
        self.redelivery = Redelivery(acknowledged, pubacks, self._report)

    def on_publish(self, packet: Packet) -> None:
        """Handle a PUBLISH packet. Raises NotMqtt."""
        packet_id, message = read_publish(
            packet, mqtt_5=self._mqtt_5, trigger_field=self._trigger_field
        )
        if self._counting.mqtt_message is not None:
            self._counting.mqtt_message(packet.first_byte >> 1 & 3)
        redelivery = self.redelivery
        may_be_known = packet.first_byte & DUP or redelivery.only_redelivered
        if may_be_known and redelivery.acknowledge_known(packet, packet_id, message):
            return
        self.unacknowledged.add(packet_id, message)

    def _report(self, redelivery: Redelivery) -> None:
        report = self._telemetry.problem if redelivery.uncertain else self._telemetry.event
        report(
            "mqtt_redelivered",
            messages=redelivery.messages,
            recognized=redelivery.recognized,
            may_run_twice=redelivery.uncertain,
        )
