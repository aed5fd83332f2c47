"""The subscriptions of one connection to the trigger topic and to the topics of flows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import gmqtt  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.mqtt.client import Client
from fractal_rm.adapters.mqtt.errors import NotConnected
from fractal_rm.adapters.mqtt.packets import NotMqtt
from fractal_rm.adapters.mqtt.reason_codes import NO_SHARED, NO_WILDCARDS, REFUSED, in_words
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.topic import SHARED, has_wildcards, subscription_identifier

ANSWER_LIMIT_S = 10.0


class Subscriptions:
    """Subscribes and unsubscribes on one connection.

    ``wait_unless_closed`` waits for an answer. It raises NotConnected if the connection ends.
    """

    def __init__(
        self,
        mqtt: Mqtt,
        client: Client,
        wait_unless_closed: Callable[[Awaitable[Any]], Awaitable[Any]],
        *,
        mqtt_5: bool,
    ) -> None:
        self._mqtt = mqtt
        self._client = client
        self._wait_unless_closed = wait_unless_closed
        self._mqtt_5 = mqtt_5
        # Locked during a request. There is one request at a time, since a broker may allow few
        # packet ids.
        self._one_at_a_time = asyncio.Lock()
        self._answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # The reason codes of the subscriptions to flows' filters, by filter.
        self._codes: dict[str, int] = {}
        self._trigger_topic_identified = False
        self.at_qos_0 = False  # whether the broker has granted only QoS 0 for a subscription
        client.set_subscription_callbacks(self._on_suback, self._on_unsuback)

    @property
    def shared(self) -> bool:
        """Whether any subscription is a shared one."""
        return any(each.startswith(SHARED) for each in (self._mqtt.topic, *self._codes))

    async def subscribe_to_triggers(self, *, with_identifier: bool) -> None:
        """Subscribe to the trigger topic. Raises NotConnected.

        ``with_identifier``: other subscriptions will follow, so the broker must put the identifier
        of the subscription into each message.
        """
        code = await self._subscribe(self._mqtt.topic, with_identifier=with_identifier)
        if code >= REFUSED:
            reason = f"the broker refuses a subscription to {self._mqtt.topic}: {in_words(code)}"
            raise NotConnected(reason)
        self._trigger_topic_identified = with_identifier

    async def subscribe_to_flows(self, filters: frozenset[str]) -> dict[str, str]:
        """Subscribe to the filters of flows. Returns the refused filters, each with the reason.

        Raises NotConnected.
        """
        if filters and self._supports_identifiers and not self._trigger_topic_identified:
            code = await self._subscribe(self._mqtt.topic, renewal=True)
            self._trigger_topic_identified = code < REFUSED
        for each in sorted(filters - self._codes.keys()):
            self._codes[each] = await self._subscribe(each)
        self._codes = {each: self._codes[each] for each in sorted(filters)}
        return {each: in_words(code) for each, code in self._codes.items() if code >= REFUSED}

    async def unsubscribe(self, topic_filter: str) -> None:
        """Unsubscribe from a filter, if the session has this filter. Raises NotConnected."""
        await self._ask(lambda: self._client.unsubscribe(topic_filter))

    async def _subscribe(
        self, topic_filter: str, *, with_identifier: bool = True, renewal: bool = False
    ) -> int:
        """Subscribe; return the reason code of the SUBACK. Raises NotConnected.

        ``renewal``: the subscription exists, and the request only sets its identifier. The broker
        must not send the retained messages a second time.
        """
        if code := self._unsupported(topic_filter):
            return code
        identifier = None
        if with_identifier and self._supports_identifiers:
            identifier = subscription_identifier(topic_filter)
        subscription = gmqtt.Subscription(
            topic_filter,
            qos=1,
            retain_handling_options=self._retain_handling(renewal=renewal),
            subscription_identifier=identifier,
        )
        try:
            code = await self._ask(lambda: self._client.subscribe(subscription))
        except NotConnected as error:
            raise NotConnected(
                f"{error}; a subscription to {topic_filter:.60} was requested",
                error.result,
                closed_by_broker=error.closed_by_broker,
                topic_filter=topic_filter,
            ) from error
        self.at_qos_0 |= code == 0
        return code

    def _unsupported(self, topic_filter: str) -> int:
        """The reason code if the broker does not support this kind of subscription; else 0.

        The broker has announced in its CONNACK what it does not support. It would close the
        connection after such a request (MQTT 5, 3.2.2.3.11).
        """
        if not self._mqtt_5:
            return 0
        shared, wildcards = topic_filter.startswith(SHARED), has_wildcards(topic_filter)
        if shared and not self._client.limit("shared_subscription_available", 1):
            return NO_SHARED
        if wildcards and not self._client.limit("wildcard_subscription_available", 1):
            return NO_WILDCARDS
        return 0

    @property
    def _supports_identifiers(self) -> bool:
        """Whether the broker supports subscription identifiers (MQTT 5, 3.2.2.3.12)."""
        return self._mqtt_5 and self._client.limit("sub_id_available", 1) == 1

    def _retain_handling(self, *, renewal: bool) -> int:
        """The Retain Handling option of a subscription (MQTT 5, 3.8.3.1).

        0 requests retained messages, 1 requests them only for a new subscription, and 2 requests
        none. In MQTT 3.1.1 these bits are reserved; retained messages are recognized by their flag.
        """
        if not self._mqtt_5:
            return 0
        if not self._mqtt.retained:
            return 2
        return 1 if renewal else 0

    async def _ask(self, send: Callable[[], Any]) -> int:
        """Send a SUBSCRIBE or UNSUBSCRIBE; returns the reason code. Raises NotConnected."""
        async with self._one_at_a_time:
            self._answer = asyncio.get_running_loop().create_future()
            send()
            try:
                return await asyncio.wait_for(
                    self._wait_unless_closed(self._answer), ANSWER_LIMIT_S
                )
            except asyncio.TimeoutError:
                reason = f"the broker did not answer a subscription within {ANSWER_LIMIT_S:.0f} s"
                raise NotConnected(reason) from None

    def _on_suback(self, codes: Sequence[int]) -> None:
        if len(codes) != 1:
            raise NotMqtt(f"a SUBACK with {len(codes)} reason codes for one filter")
        self._set_answer(codes[0])

    def _on_unsuback(self, codes: Sequence[int]) -> None:
        code = codes[0] if codes else 0
        self._set_answer(code)

    def _set_answer(self, code: int) -> None:
        if not self._answer.done():
            self._answer.set_result(code)
