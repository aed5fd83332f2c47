"""Finds the flows that a message starts, by the topic of the message.

If a message matches several subscriptions, a broker may send one copy of it for each subscription
(MQTT 5, 3.3.4), or one copy for all. So every subscription has an identifier, which the broker puts
into the copy. If several filters of a flow match, only the copy for the first of these filters
starts the flow.

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
        self._cache: dict[str, list[tuple[str, str]]] = {}  # results of `_matching_flows`, by topic
        self._by_identifier = {
            subscription_identifier(each): each for each in self.filters | {trigger_topic}
        }

    def is_trigger_topic(self, topic: str) -> bool:
        """Whether ``topic`` matches the trigger topic although it is another text.

        This is possible if the trigger topic has wildcards, or if RabbitMQ has changed ``topic``.
        In the second case, a topic that starts flows is not a trigger topic.
        """
        if self._trigger_topic_has_wildcards and matches(self.trigger_topic, topic):
            return True
        return _matches_in_rabbitmq(self.trigger_topic, topic) and not self.starts_any(topic)

    def is_trigger(self, subscriptions: Collection[int]) -> bool:
        """Whether a message on the trigger topic is a trigger. Else it is a copy for a flow.

        ``subscriptions`` are the identifiers in the message.
        """
        filters = self._filters_of(subscriptions)
        return not filters or self.trigger_topic in filters

    def flows_started_by(self, topic: str, subscriptions: Collection[int]) -> list[str]:
        """The ids of the flows that a message on ``topic`` starts.

        ``subscriptions`` are the identifiers in the message. If none of them is known, the message
        starts all flows that match: it was sent before the subscriptions were changed, or the
        broker does not support identifiers.
        """
        filters = self._filters_of(subscriptions)
        matching = self._matching_flows(topic)
        return [flow for flow, first_filter in matching if not filters or first_filter in filters]

    def starts_any(self, topic: str) -> bool:
        """Whether any flow is started by messages on ``topic``."""
        return bool(self._matching_flows(topic))

    def _matching_flows(self, topic: str) -> list[tuple[str, str]]:
        """The flows that ``topic`` starts, each with its first filter that matches."""
        flows = self._cache.get(topic)
        if flows is None:
            flows = self._first_filters(lambda each: matches(each, topic))
            if not flows:
                flows = self._first_filters(lambda each: _matches_in_rabbitmq(each, topic))
            if len(self._cache) >= MAX_CACHED_TOPICS:
                self._cache.clear()
            self._cache[topic] = flows
        return flows

    def _first_filters(self, matches_topic: Callable[[str], bool]) -> list[tuple[str, str]]:
        firsts = (
            (flow, next(filter(matches_topic, filters), None))
            for flow, filters in self._filters.items()
        )
        return [(flow, first) for flow, first in firsts if first is not None]

    def _filters_of(self, subscriptions: Collection[int]) -> set[str]:
        return {self._by_identifier[each] for each in subscriptions if each in self._by_identifier}


def _matches_in_rabbitmq(topic_filter: str, topic: str) -> bool:
    """Whether RabbitMQ changes the filter to another filter that matches ``topic``."""
    read_as = topic_filter.replace(".", "/").replace("*", "+")
    return read_as != topic_filter and matches(read_as, topic)
