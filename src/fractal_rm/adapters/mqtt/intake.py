"""Messages into triggers: connected again and again, acknowledged when durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from fractal_rm.adapters.mqtt.client_id import ClientId
from fractal_rm.adapters.mqtt.link import Link, LinkFailed
from fractal_rm.adapters.mqtt.publish_packet import Message
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.errors import Broken, Refused
from fractal_rm.domain.trigger import Arrival, Source
from fractal_rm.engine.ports import Check, Clock, Intake, Random, Taken, Telemetry

AGAIN_FIRST_S = 0.2
AGAIN_AT_MOST_S = 10.0
STEADY_AFTER_S = 5.0  # a link that held this long was a good one


def _arrival(message: Message) -> Arrival:
    return Arrival(Source.MQTT, message.body, key=message.key)


class MqttIntake:
    """Port `WayIn`. A broker that is down, at the start or later, is waited for."""

    def __init__(
        self,
        mqtt: Mqtt,
        intake: Intake,
        state_path: Path,
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
        *,
        max_trigger_bytes: Callable[[], int],
    ) -> None:
        self._mqtt = mqtt
        self._intake = intake
        self._state_path = state_path
        self._clock = clock
        self._random = random
        self._telemetry = telemetry
        self._max_trigger_bytes = max_trigger_bytes
        self._address = f"{mqtt.host}:{mqtt.port}"
        self._client_id: ClientId | None = None
        self._link: Link | None = None
        self._running: asyncio.Task[None] | None = None
        self._why_not = "not connected yet"
        self._stopping = False

    async def start(self) -> None:
        """Begin to connect; returns at once.

        Raises ClientIdInUse, and OSError where no client id can be kept.
        """
        self._client_id = ClientId(self._mqtt.client_id, self._state_path, self._random)
        self._running = asyncio.create_task(self._stay_connected(self._client_id.text))

    async def stop(self) -> None:
        """Disconnect in order: what is being journalled is acknowledged, what waits comes again."""
        running, self._running = self._running, None
        if running is None:
            return
        self._stopping = True
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
            self._link = None
        if self._client_id is not None:
            self._client_id.release()  # only now: its next user would throw this link out
            self._client_id = None

    def status(self) -> Check:
        """Whether messages can come in now."""
        if self._link is None:
            return Check("mqtt", ok=False, text=f"{self._address}: {self._why_not}")
        return Check("mqtt", ok=True, text=f"{self._address}, MQTT {self._link.protocol}")

    async def _stay_connected(self, client_id: str) -> None:
        """First connect and reconnect are one path."""
        tries, older = 0, False
        while not self._stopping:  # wait_for may swallow a cancellation (Python before 3.12)
            began_s = self._clock.monotonic_s()
            fault: Exception | None = None
            try:
                link = await self._open(client_id, older=older)
            except LinkFailed as error:
                self._why_not, changes = str(error), error.older != older
                older = error.older
                if older and changes:
                    continue  # the broker said which protocol it speaks: at once
            except Exception as error:  # noqa: BLE001 - the top of the task
                # Nobody foresaw it, and it may pass: without this task there is no MQTT any more.
                self._why_not, fault = f"{type(error).__name__}: {error}", error
            else:
                self._link = link
                if self._stopping:
                    return
                self._telemetry.event(
                    "mqtt_connected", broker=self._address, protocol=link.protocol
                )
                self._why_not = await asyncio.shield(link.closed)
                self._link = None
            if self._clock.monotonic_s() - began_s > STEADY_AFTER_S:
                tries = 0
            tries += 1
            again_s = self._again_s(tries)
            self._telemetry.problem(
                "mqtt_down",
                broker=self._address,
                reason=self._why_not,
                again_s=round(again_s, 1),
                exc_info=fault,
            )
            await asyncio.sleep(again_s)

    async def _open(self, client_id: str, *, older: bool) -> Link:
        link = self._new_link(client_id, older=older)
        try:
            await link.open()
        except BaseException:  # a cancellation too: nothing may come in by it any more
            link.abort()
            raise
        return link

    def _again_s(self, tries: int) -> float:
        """Doubling to a bound, half of it chance: a fleet must not come back as one."""
        full = min(AGAIN_AT_MOST_S, AGAIN_FIRST_S * 2 ** min(tries - 1, 10))
        return full * (0.5 + self._random.fraction() / 2)

    def _new_link(self, client_id: str, *, older: bool) -> Link:
        wait_for_room = self._intake.wait_for_room
        return Link(
            self._mqtt, client_id, self._take, wait_for_room, self._max_trigger_bytes, older=older
        )

    async def _take(self, messages: Sequence[Message]) -> list[bool]:
        """Of each message, whether it may be acknowledged: it is durable, or was not for us."""
        answers = iter(await self._received([each for each in messages if self._may_run(each)]))
        durable: list[bool] = []
        for each in messages:
            answer = next(answers) if self._may_run(each) else each.refusal
            durable.append(isinstance(answer, Taken) or await self._needs_no_run(each, answer))
        return durable

    def _may_run(self, message: Message) -> bool:
        return message.refusal is None and (self._mqtt.retained or not message.retained)

    async def _received(self, messages: Sequence[Message]) -> Sequence[Taken | Refused]:
        try:
            return await self._intake.receive_all([_arrival(each) for each in messages])
        except Exception as error:  # noqa: BLE001 - the top of the task
            # Unanswered, they would hold the broker's places as long as the connection lives.
            self._note_fault(error)
            return [Broken(repr(error))] * len(messages)

    async def _needs_no_run(self, message: Message, answer: Refused | None) -> bool:
        if answer is None:
            self._telemetry.event("retained_ignored", topic=self._mqtt.topic)
            return True
        return answer.final and await self._set_aside(_arrival(message), answer)

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
