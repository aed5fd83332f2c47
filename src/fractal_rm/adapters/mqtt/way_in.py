"""Receives triggers over MQTT: on the trigger topic, and on the topics that start flows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fractal_rm.adapters.mqtt.admission import MessageAdmission
from fractal_rm.adapters.mqtt.flow_topics import FlowTopics
from fractal_rm.adapters.mqtt.session import MqttSession
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.flow import Flow
from fractal_rm.engine.ports import Clock, Counting, Intake, ReadinessCheck, Telemetry, WayIn


class MqttWayIn:
    """Port `WayIn`. If the broker is down, it retries until it is connected.

    ``flows`` returns the flows of the configuration in force, with the topics that start them.
    """

    takes_over = False

    def __init__(
        self,
        session: MqttSession,
        mqtt: Mqtt,
        intake: Intake,
        clock: Clock,
        telemetry: Telemetry,
        *,
        max_trigger_bytes: Callable[[], int],
        flows: Callable[[], Mapping[str, Flow]],
        counting: Counting | None = None,
    ) -> None:
        self._session = session
        self._mqtt = mqtt
        self._flows = flows
        topics = FlowTopics(mqtt.topic, {})
        self._admission = MessageAdmission(
            mqtt, intake, clock, telemetry, topics, max_trigger_bytes, counting or Counting()
        )
        self._open = False

    async def start(self, predecessor: WayIn | None = None) -> None:  # noqa: ARG002 - not needed
        """Start connecting, and return without waiting. Raises the errors of `MqttSession.open`."""
        self._admission.topics = FlowTopics(self._mqtt.topic, self._flows())
        self._session.open(self._mqtt, self._admission)
        self._open = True

    async def stop(self) -> None:
        """Disconnect cleanly."""
        if self._open:  # otherwise, another `MqttWayIn` may use the session
            self._open = False
            await self._session.close()

    def status(self) -> ReadinessCheck:
        """Whether messages can be received now."""
        return self._session.status()

    def reconfigured(self) -> None:
        """Subscribe to the topics of the new configuration. The connection stays open."""
        self._admission.topics = FlowTopics(self._mqtt.topic, self._flows())
        self._session.topics_changed()
