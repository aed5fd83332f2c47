"""The subscriptions of one connection: to triggers, and to the topics that flows begin at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import gmqtt  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.mqtt.client import LinkFailed, said_by_broker
from fractal_rm.adapters.mqtt.codes import NO_SHARED, NO_WILDCARDS, REFUSED, in_words
from fractal_rm.adapters.mqtt.packets import NotMqtt
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.topic import SHARED, has_wildcards, subscription_identifier

ANSWER_LIMIT_S = 10.0


class Subscriptions:
    """``unless_closed`` waits for an answer, and raises LinkFailed at the end of the connection."""

    def __init__(
        self,
        mqtt: Mqtt,
        client: Any,
        unless_closed: Callable[[Awaitable[Any]], Awaitable[Any]],
        *,
        mqtt_5: bool,
    ) -> None:
        self._mqtt = mqtt
        self._client = client
        self._unless_closed = unless_closed
        self._mqtt_5 = mqtt_5
        self._asking = asyncio.Lock()
        self._answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._codes: dict[str, int] = {}  # of filters beside the topic of triggers
        self._own_is_numbered = False
        self.at_qos_0 = False  # whether the broker grants less than was asked for
        client.on_subscribe = self._on_suback
        client.on_unsubscribe = self._on_unsuback

    @property
    def shared(self) -> bool:
        """Whether any is to be shared with other clients."""
        return any(each.startswith(SHARED) for each in (self._mqtt.topic, *self._codes))

    async def begin(self, *, numbered: bool) -> None:
        """Subscribe to triggers. Raises LinkFailed.

        ``numbered``: there will be other subscriptions, so messages shall name theirs.
        """
        code = await self._subscribe(self._mqtt.topic, numbered=numbered)
        if code >= REFUSED:
            why = f"the broker refuses a subscription to {self._mqtt.topic}: {in_words(code)}"
            raise LinkFailed(why)
        self._own_is_numbered = numbered

    async def follow(self, filters: frozenset[str]) -> dict[str, str]:
        """Subscribe to those that this link has not yet; returns which are refused, and why.

        Raises LinkFailed.
        """
        if filters and self._numbers and not self._own_is_numbered:
            code = await self._subscribe(self._mqtt.topic, again=True)
            self._own_is_numbered = code < REFUSED
        for each in sorted(filters - self._codes.keys()):
            self._codes[each] = await self._subscribe(each)
        self._codes = {each: self._codes[each] for each in sorted(filters)}
        return {each: in_words(code) for each, code in self._codes.items() if code >= REFUSED}

    async def drop(self, topic_filter: str) -> None:
        """Ask for its messages no more; it need not be subscribed. Raises LinkFailed."""
        await self._asked(lambda: self._client.unsubscribe([topic_filter.encode()]))

    async def _subscribe(
        self, topic_filter: str, *, numbered: bool = True, again: bool = False
    ) -> int:
        """Ask for messages; the reason code of the answer. Raises LinkFailed.

        ``again``: only its number changes, so that what is retained has come already.
        """
        if lacking := self._lacking(topic_filter):
            return lacking
        number = subscription_identifier(topic_filter) if numbered and self._numbers else None
        subscription = gmqtt.Subscription(
            topic_filter,
            qos=1,
            retain_handling_options=self._retained(again=again),
            subscription_identifier=number,
        )
        try:
            code = await self._asked(lambda: self._client.subscribe(subscription))
        except LinkFailed as failed:
            raise LinkFailed(
                f"{failed}; a subscription to {topic_filter:.60} was asked for",
                failed.answer,
                cut=failed.cut,
                topic_filter=topic_filter,
            ) from failed
        self.at_qos_0 |= code == 0
        return code

    def _lacking(self, topic_filter: str) -> int:
        """Who asks for what the broker has said that it lacks is cut off (MQTT 5, 3.2.2.3.11)."""
        if not self._mqtt_5:
            return 0
        shared, wild = topic_filter.startswith(SHARED), has_wildcards(topic_filter)
        if shared and not said_by_broker(self._client, "shared_subscription_available", 1):
            return NO_SHARED
        if wild and not said_by_broker(self._client, "wildcard_subscription_available", 1):
            return NO_WILDCARDS
        return 0

    @property
    def _numbers(self) -> bool:
        """Whether the broker names subscriptions in what it sends (MQTT 5, 3.2.2.3.12)."""
        return self._mqtt_5 and said_by_broker(self._client, "sub_id_available", 1) == 1

    def _retained(self, *, again: bool) -> int:
        """MQTT 5, 3.8.3.1: 2 asks not to be sent retained messages, 1 not once more.

        In 3.1.1 those bits are reserved, and the messages are told by their flag.
        """
        if not self._mqtt_5:
            return 0
        return 1 if again and self._mqtt.retained else 0 if self._mqtt.retained else 2

    async def _asked(self, ask: Callable[[], Any]) -> int:
        """The reason code of the answer. One after another, as packet ids may be few."""
        async with self._asking:
            self._answer = asyncio.get_running_loop().create_future()
            ask()
            try:
                return await asyncio.wait_for(self._unless_closed(self._answer), ANSWER_LIMIT_S)
            except asyncio.TimeoutError:
                raise LinkFailed("the broker does not answer to a subscription") from None

    def _on_suback(
        self, _client: Any, _packet_id: int, codes: tuple[int, ...], _props: Any
    ) -> None:
        if len(codes) != 1:
            raise NotMqtt(f"{len(codes)} answers to a subscription to one filter")
        self._answered(codes[0])

    def _on_unsuback(self, _client: Any, _packet_id: int, codes: tuple[int, ...]) -> None:
        self._answered(codes[0] if codes else 0)  # in MQTT 3.1.1 it has none

    def _answered(self, code: int) -> None:
        if not self._answer.done():
            self._answer.set_result(code)
