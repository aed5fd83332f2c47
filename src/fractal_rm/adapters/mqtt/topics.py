"""Which flows begin at the messages of which topics, and what a session is subscribed to for them.

A broker may send a message once for each subscription that it matches (MQTT 5, 3.3.4), or once for
all of them. So every subscription has a number, which a message names: each flow is started by the
copy that came for the first of its filters that match, and so once.

RabbitMQ gives each ``.`` of a topic as ``/``, and takes ``*`` for ``+``. So a topic that no filter
matches as it is written is compared with the filters as RabbitMQ has them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b
from pathlib import Path

import msgspec
from msgspec import UNSET

from fractal_rm.config.model import Broker
from fractal_rm.config.regular_file import read_regular
from fractal_rm.config.whole_file import replace_file
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.none_left import none_left
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as
from fractal_rm.domain.topic import MOST_BYTES, has_wildcards, matches, subscription_identifier

MOST_FOUND = 1_000  # topics of which it is remembered which flows begin there
MOST_BROKERS = 16  # of which subscriptions are kept


class Topics:
    """The filters of ``flows``, and ``own``, the topic of triggers: that one starts no flow."""

    def __init__(self, own: str, flows: Mapping[str, Flow]) -> None:
        self.own = own
        self._own_is_wide = has_wildcards(own)
        self._own_in_rabbitmq = _in_rabbitmq(own)
        self._filters = {
            flow.id: flow.starts.topics
            for flow in flows.values()
            if flow.starts is not UNSET and flow.starts.topics
        }
        self.filters = frozenset(f for filters in self._filters.values() for f in filters) - {own}
        self._found: dict[str, list[tuple[str, str]]] = {}  # by topics that came
        self._numbers = {subscription_identifier(each): each for each in self.filters | {own}}

    def owns(self, topic: str) -> bool:
        """Whether messages on ``topic``, which is not ``own`` as it is written, are triggers."""
        if self._own_is_wide and matches(self.own, topic):
            return True
        there = self._own_in_rabbitmq
        return there is not None and matches(there, topic) and not self._at(topic)

    def for_triggers(self, subscriptions: Collection[int]) -> bool:
        """Whether a message on the topic of triggers is one, and not a copy for another filter."""
        known = self._known(subscriptions)
        return not known or self.own in known

    def begun_by(self, topic: str, subscriptions: Collection[int]) -> list[str]:
        """The ids of the flows that a message on ``topic`` starts.

        One that names no subscription that we know starts all that match: it is from before a
        change of them, or its broker does not number them.
        """
        known = self._known(subscriptions)
        return [flow for flow, first in self._at(topic) if not known or first in known]

    def any_matches(self, topic: str) -> bool:
        """Whether any flow begins at messages on ``topic``."""
        return bool(self._at(topic))

    def _at(self, topic: str) -> list[tuple[str, str]]:
        """The flows that begin there, each with the first of its filters that matches."""
        found = self._found.get(topic)
        if found is None:
            found = self._firsts(lambda each: matches(each, topic)) or self._firsts(
                lambda each: (there := _in_rabbitmq(each)) is not None and matches(there, topic)
            )
            if len(self._found) >= MOST_FOUND:
                self._found.clear()
            self._found[topic] = found
        return found

    def _firsts(self, fits: Callable[[str], bool]) -> list[tuple[str, str]]:
        firsts = (
            (flow, next(filter(fits, filters), None)) for flow, filters in self._filters.items()
        )
        return [(flow, first) for flow, first in firsts if first is not None]

    def _known(self, subscriptions: Collection[int]) -> set[str]:
        return {self._numbers[each] for each in subscriptions if each in self._numbers}


def _in_rabbitmq(topic_filter: str) -> str | None:
    """A filter as RabbitMQ has it; None where that is the same."""
    there = topic_filter.replace(".", "/").replace("*", "+")
    return there if there != topic_filter else None


class KeptTopics:
    """What the sessions at brokers may be subscribed to, in the state folder.

    A broker keeps subscriptions as it keeps messages, so what was left out of the configuration
    while the node was away, or at another broker, must be known to be taken back. Two addresses may
    lead to one session, so what was asked for at one is taken back at each. A file that cannot be
    read knows of none: what was left out may still come, and is set aside. ``unread`` is told why.
    Where no file descriptor is free, OSError is raised: it can be read later. It is read once, as
    nobody else writes it: who connects again needs no descriptor for it.
    """

    def __init__(self, folder: Path, client_id: str, unread: Callable[[Path, str], None]) -> None:
        self._unread = unread
        name = blake2b(client_id.encode(), digest_size=8).hexdigest()
        self._path = folder / f"mqtt-topics-{name}.json"
        self._known: dict[str, frozenset[str]] | None = None

    def read(self) -> frozenset[str]:
        """The filters that were written last, for any broker. Raises OSError."""
        return frozenset(each for filters in self._kept().values() for each in filters)

    def write(self, broker: Broker, filters: frozenset[str]) -> None:
        """Keep those of a broker. Raises OSError."""
        others = {**self._kept()}
        if filters != others.pop(str(broker), None) or not self._path.exists():
            newest = list(others.items())[-MOST_BROKERS + 1 :]
            now = {**dict(newest), str(broker): filters}
            in_order = {name: sorted(each) for name, each in now.items()}
            replace_file(self._path, msgspec.json.encode(in_order))
            self._known = now

    def _kept(self) -> dict[str, frozenset[str]]:
        if self._known is None:
            self._known = self._read()
        return self._known

    def _read(self) -> dict[str, frozenset[str]]:
        try:
            kept = read_json_as(read_regular(self._path), dict[str, frozenset[str]])
        except FileNotFoundError:
            return {}
        except (OSError, Malformed, msgspec.ValidationError) as error:
            if none_left(error):
                raise
            self._unread(self._path, str(error))
            return {}
        return {
            broker: frozenset(each for each in filters if _can_be_sent(each))
            for broker, filters in kept.items()
        }


def _can_be_sent(topic_filter: str) -> bool:
    """Whether a broker can be asked about it; one that is no filter would end the link."""
    return 0 < len(topic_filter.encode()) <= MOST_BYTES and "\0" not in topic_filter
