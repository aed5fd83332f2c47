"""Finds the flows that a message starts, by the topic of the message.

If a message matches several subscriptions, a broker may send one copy of it for each subscription
(MQTT 5, 3.3.4), or one copy for all. So every subscription has an identifier, which the broker puts
into the copy. Each flow has filters; the copy for the first filter that matches starts the flow, so
the flow starts once.

RabbitMQ replaces each ``.`` of a topic by ``/``, and reads ``*`` as ``+``. So if no filter matches
a topic, the topic is compared again with the filters as RabbitMQ reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from msgspec import UNSET

from fractal_rm.domain.flow import Flow
from fractal_rm.domain.topic import has_wildcards, matches, subscription_identifier

MAX_CACHED_TOPICS = 1_000


class FlowTopics:
    """The topic filters of ``flows``, and the trigger topic.

    A message on the trigger topic contains the id of its flow, so it needs no filter.
    """

    def __init__(self, trigger_topic: str, flows: Mapping[str, Flow]) -> None:
        self.trigger_topic = trigger_topic
        self._trigger_topic_has_wildcards = has_wildcards(trigger_topic)
        self._filters = {
            flow.id: flow.starts.topics
            for flow in flows.values()
            if flow.starts is not UNSET and flow.starts.topics
        }
        all_filters = {each for filters in self._filters.values() for each in filters}
        self.filters = frozenset(all_filters - {trigger_topic})
        self._cache: dict[str, list[tuple[str, str]]] = {}  # what `_matching` returned, by topic
        self._by_identifier = {
            subscription_identifier(each): each for each in self.filters | {trigger_topic}
        }

    def is_trigger_topic(self, topic: str) -> bool:
        """Whether ``topic``, which differs from the trigger topic, matches the trigger topic.

        It can match if the trigger topic has wildcards, or if RabbitMQ has changed ``topic``.
        """
        if self._trigger_topic_has_wildcards and matches(self.trigger_topic, topic):
            return True
        return _matches_in_rabbitmq(self.trigger_topic, topic) and not self._matching(topic)

    def is_trigger(self, subscriptions: Collection[int]) -> bool:
        """Whether a message on the trigger topic is a trigger, and not a copy for another filter.

        ``subscriptions`` are the identifiers in the message.
        """
        known = self._known(subscriptions)
        return not known or self.trigger_topic in known

    def flows_started_by(self, topic: str, subscriptions: Collection[int]) -> list[str]:
        """The ids of the flows that a message on ``topic`` starts.

        ``subscriptions`` are the identifiers in the message. If none of them is known, the message
        starts all flows that match: it was sent before the subscriptions were changed, or the
        broker does not support identifiers.
        """
        known = self._known(subscriptions)
        return [flow for flow, first in self._matching(topic) if not known or first in known]

    def starts_any(self, topic: str) -> bool:
        """Whether any flow is started by messages on ``topic``."""
        return bool(self._matching(topic))

    def _matching(self, topic: str) -> list[tuple[str, str]]:
        """The flows that ``topic`` starts, each with the first of its filters that match."""
        found = self._cache.get(topic)
        if found is None:
            found = self._first_filters(lambda each: matches(each, topic))
            if not found:
                found = self._first_filters(lambda each: _matches_in_rabbitmq(each, topic))
            if len(self._cache) >= MAX_CACHED_TOPICS:
                self._cache.clear()
            self._cache[topic] = found
        return found

    def _first_filters(self, fits: Callable[[str], bool]) -> list[tuple[str, str]]:
        firsts = (
            (flow, next(filter(fits, filters), None)) for flow, filters in self._filters.items()
        )
        return [(flow, first) for flow, first in firsts if first is not None]

    def _known(self, subscriptions: Collection[int]) -> set[str]:
        return {self._by_identifier[each] for each in subscriptions if each in self._by_identifier}


def _matches_in_rabbitmq(topic_filter: str, topic: str) -> bool:
    """Whether RabbitMQ reads the filter in another way, in which it matches ``topic``."""
    read_as = topic_filter.replace(".", "/").replace("*", "+")
    return read_as != topic_filter and matches(read_as, topic)
