"""Messages into triggers: what each of them asks for, and whether it may be acknowledged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fractal_rm.adapters.mqtt.publish_packet import Message
from fractal_rm.adapters.mqtt.topics import Topics
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.refusals import Broken, Refused, UnknownFlow
from fractal_rm.domain.trigger import Arrival, Source
from fractal_rm.engine.ports import Intake, Taken, Telemetry


def _arrival(message: Message, flow_id: str | None = None) -> Arrival:
    return Arrival(Source.MQTT, message.body, message.key, flow_id, message.said, message.waited_ms)


class Taking:
    """``topics`` are those in force: they say which flows a message starts."""

    def __init__(self, mqtt: Mqtt, intake: Intake, telemetry: Telemetry, topics: Topics) -> None:
        self._mqtt = mqtt
        self._intake = intake
        self._telemetry = telemetry
        self.topics = topics

    async def take(self, messages: Sequence[Message]) -> list[bool]:
        """Of each message, whether it may be acknowledged: it is durable, or was not for us."""
        asked = [self._asked_by(each) for each in messages]
        answers = iter(await self._received([arrival for each in asked for arrival in each]))
        durable: list[bool] = []
        for message, arrivals in zip(messages, asked, strict=True):
            if not arrivals:
                durable.append(await self._needs_no_run(message))
            elif arrivals[0].flow_id is None:
                answer = next(answers)
                taken = isinstance(answer, Taken)
                durable.append(taken or await self._is_seen_to(arrivals[0], answer))
            else:
                durable.append(await self._all_seen_to(message, arrivals, answers))
        return durable

    def _asked_by(self, message: Message) -> Sequence[Arrival]:
        """The triggers that a message is: none, one, or one for each flow that it starts."""
        if message.refusal is not None or (message.retained and not self._mqtt.retained):
            return ()
        if message.topic is not None and not self.topics.owns(message.topic):
            begun = self.topics.begun_by(message.topic, message.subscriptions)
            return [_arrival(message, flow) for flow in begun if flow not in message.begun]
        if message.subscriptions and not self.topics.for_triggers(message.subscriptions):
            return ()
        return (_arrival(message),)

    async def _all_seen_to(
        self, message: Message, arrivals: Sequence[Arrival], answers: Iterator[Taken | Refused]
    ) -> bool:
        """What is done for a message is remembered with it, if it must wait for the rest."""
        done = {
            arrival.flow_id or ""
            for arrival in arrivals
            if await self._is_seen_to(arrival, next(answers))
        }
        message.begun |= done
        return len(done) == len(arrivals)

    async def _is_seen_to(self, arrival: Arrival, answer: Taken | Refused) -> bool:
        """Whether a trigger is durable, as a run or as a dead letter."""
        if isinstance(answer, Taken):
            return True
        return answer.final and await self._set_aside(arrival, answer)

    async def _received(self, arrivals: Sequence[Arrival]) -> Sequence[Taken | Refused]:
        if not arrivals:
            return ()
        try:
            return await self._intake.receive_all(arrivals)
        except Exception as error:  # noqa: BLE001 - the top of the task
            # Unanswered, they would hold the broker's places as long as the connection lives.
            self._note_fault(error)
            return [Broken(repr(error))] * len(arrivals)

    async def _needs_no_run(self, message: Message) -> bool:
        """Three cases: it cannot be a run, it is retained, or another copy of it does the work."""
        if message.refusal is not None:
            return await self._set_aside(_arrival(message), message.refusal)
        if message.retained and not self._mqtt.retained:
            self._telemetry.event("retained_ignored", topic=message.topic or self._mqtt.topic)
            return True
        topic = message.topic
        if topic is None or self.topics.owns(topic) or self.topics.any_matches(topic):
            return True
        nobody = UnknownFlow(f"no flow begins at messages on {topic!r:.200}")
        return await self._set_aside(_arrival(message), nobody)

    async def _set_aside(self, arrival: Arrival, refusal: Refused) -> bool:
        try:
            await self._intake.set_aside(arrival, refusal)
        except Refused:
            return False  # not even that can be written now
        except Exception as error:  # noqa: BLE001 - the top of the task
            self._note_fault(error)
            return False
        return True

    def _note_fault(self, error: Exception) -> None:
        self._telemetry.problem("message_broke", error=repr(error), exc_info=error)
