"""Turns received messages into triggers, and passes the triggers to the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fractal_rm.adapters.mqtt.flow_topics import FlowTopics
from fractal_rm.adapters.mqtt.publish_packet import Message
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.refusals import InternalFault, Refused, UnknownFlow
from fractal_rm.domain.trigger import Arrival, TriggerSource
from fractal_rm.engine.ports import AcceptedTrigger, Clock, Counting, Intake, Telemetry


def _trigger(message: Message, flow_id: str | None = None) -> Arrival:
    return Arrival(
        TriggerSource.MQTT, message.body, message.key, flow_id, message.metadata, message.waited_ms
    )


class MessageAdmission:
    """A `Receiver` that turns each message into triggers or into a dead letter.

    ``topics`` are the topics of the configuration in force.
    """

    def __init__(
        self,
        mqtt: Mqtt,
        intake: Intake,
        clock: Clock,
        telemetry: Telemetry,
        topics: FlowTopics,
        max_body_bytes: Callable[[], int],
        counting: Counting,
    ) -> None:
        self._mqtt = mqtt
        self._intake = intake
        self._clock = clock
        self._telemetry = telemetry
        self.topics = topics
        self.counting = counting
        self.max_body_bytes = max_body_bytes

    async def admit(self, messages: Sequence[Message]) -> list[bool]:
        """Return for each message whether it may be acknowledged.

        A message may be acknowledged if it is stored durably, or if it is ignored.
        """
        arrivals_by_message = [self._triggers_of(each) for each in messages]
        all_arrivals = [each for arrivals in arrivals_by_message for each in arrivals]
        answers = iter(await self._receive(all_arrivals))
        durable: list[bool] = []
        for message, arrivals in zip(messages, arrivals_by_message, strict=True):
            if not arrivals:
                durable.append(await self._handle_without_triggers(message))
            elif arrivals[0].flow_id is None:  # one trigger, whose body contains the id of its flow
                answer = next(answers)
                accepted = isinstance(answer, AcceptedTrigger)
                durable.append(accepted or await self._is_durable(arrivals[0], answer))
            else:
                durable.append(await self._all_durable(message, arrivals, answers))
        return durable

    async def wait_for_room(self) -> int:
        """Wait until there may be room for triggers. Returns the waiting time in milliseconds.

        The waiting time includes the time in which the machine was suspended.
        """
        since_ms = self._clock.steady_ms()
        await self._intake.wait_for_room()
        return self._clock.steady_ms() - since_ms

    def _triggers_of(self, message: Message) -> Sequence[Arrival]:
        """The triggers in a message: none, one, or one for each flow that the message starts."""
        if message.refusal is not None or (message.retained and not self._mqtt.retained):
            return ()
        if message.topic is not None and not self.topics.is_trigger_topic(message.topic):
            flows = self.topics.flows_started_by(message.topic, message.subscriptions)
            return [_trigger(message, flow) for flow in flows if flow not in message.started]
        if message.subscriptions and not self.topics.is_trigger(message.subscriptions):
            return ()
        return (_trigger(message),)

    async def _all_durable(
        self,
        message: Message,
        arrivals: Sequence[Arrival],
        answers: Iterator[AcceptedTrigger | Refused],
    ) -> bool:
        """Set refused triggers aside, and return whether all triggers of a message are durable.

        The flows whose triggers are durable are added to ``message.started``. When the message is
        offered again, only its other flows are tried.
        """
        started = {
            arrival.flow_id or ""
            for arrival in arrivals
            if await self._is_durable(arrival, next(answers))
        }
        message.started |= started
        return len(started) == len(arrivals)

    async def _is_durable(self, arrival: Arrival, answer: AcceptedTrigger | Refused) -> bool:
        """Set a finally refused trigger aside, and return whether the trigger is durable.

        A durable trigger is a run or a dead letter.
        """
        if isinstance(answer, AcceptedTrigger):
            return True
        return answer.final and await self._set_aside(arrival, answer)

    async def _receive(self, arrivals: Sequence[Arrival]) -> Sequence[AcceptedTrigger | Refused]:
        if not arrivals:
            return ()
        try:
            return await self._intake.receive_all(arrivals)
        except Exception as error:  # noqa: BLE001 - the top of the task
            # This refusal makes the messages dead letters, which are acknowledged. Unacknowledged
            # messages would occupy the broker's window until the connection ends.
            self._report_fault(error)
            return [InternalFault(repr(error))] * len(arrivals)

    async def _handle_without_triggers(self, message: Message) -> bool:
        """Handle a message that has no triggers. Returns whether it may be acknowledged.

        - If the message cannot become a run, or its topic starts no flow, it becomes a dead letter.
        - If the message is retained and `mqtt.retained` is false, it is ignored.
        - If another copy of the message starts the flow, this copy is ignored.
        """
        if message.refusal is not None:
            return await self._set_aside(_trigger(message), message.refusal)
        if message.retained and not self._mqtt.retained:
            self._telemetry.event("retained_ignored", topic=message.topic or self._mqtt.topic)
            return True
        topic = message.topic
        if topic is None or self.topics.is_trigger_topic(topic) or self.topics.starts_any(topic):
            return True
        refusal = UnknownFlow(f"no flow is started by messages on {topic!r:.200}")
        return await self._set_aside(_trigger(message), refusal)

    async def _set_aside(self, arrival: Arrival, refusal: Refused) -> bool:
        try:
            await self._intake.set_aside(arrival, refusal)
        except Refused:
            return False  # even a dead letter cannot be written now
        except Exception as error:  # noqa: BLE001 - the top of the task
            self._report_fault(error)
            return False
        return True

    def _report_fault(self, error: Exception) -> None:
        self._telemetry.problem("message_failed", error=repr(error), exc_info=error)
