"""A file with the topic filters to which our sessions at the brokers may be subscribed."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import msgspec

from fractal_rm.config.durable_files import replace_file
from fractal_rm.config.model import Broker
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.descriptors import is_out_of_descriptors
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as
from fractal_rm.domain.topic import MAX_BYTES

MAX_BROKERS = 16


class SubscriptionFile:
    """Remembers filters, so that the node can unsubscribe from removed filters.

    A broker stores subscriptions in its session, even if a filter is removed from the configuration
    while the node is stopped, or connected to another broker. Two addresses may lead to the same
    broker, so the node unsubscribes from removed filters at every address.

    If the file cannot be read, ``on_unreadable`` is called with the path and the reason, and the
    file counts as empty. Then messages for removed filters may still arrive; they become dead
    letters. If no file descriptor is free, OSError is raised, so that the file can be read later.
    The file is read once, since no other process writes it.
    """

    def __init__(
        self, folder: Path, client_id: str, on_unreadable: Callable[[Path, str], None]
    ) -> None:
        self._on_unreadable = on_unreadable
        name = blake2b(client_id.encode(), digest_size=8).hexdigest()
        self._path = folder / f"mqtt-topics-{name}.json"
        # The content of the file, by broker. None if it was not read yet.
        self._content: dict[str, frozenset[str]] | None = None

    def read(self) -> frozenset[str]:
        """The filters of all brokers together. Raises OSError."""
        return frozenset(each for filters in self._by_broker().values() for each in filters)

    def write(self, broker: Broker, filters: frozenset[str]) -> None:
        """Replace the filters that are stored for a broker. Raises OSError."""
        other_brokers = {**self._by_broker()}
        if filters != other_brokers.pop(str(broker), None) or not self._path.exists():
            newest = list(other_brokers.items())[-MAX_BROKERS + 1 :]
            by_broker = {**dict(newest), str(broker): filters}
            content = {address: sorted(each) for address, each in by_broker.items()}
            replace_file(self._path, msgspec.json.encode(content))
            self._content = by_broker

    def _by_broker(self) -> dict[str, frozenset[str]]:
        if self._content is None:
            self._content = self._read()
        return self._content

    def _read(self) -> dict[str, frozenset[str]]:
        try:
            stored = read_json_as(read_regular(self._path), dict[str, frozenset[str]])
        except FileNotFoundError:
            return {}
        except (OSError, Malformed, msgspec.ValidationError) as error:
            if is_out_of_descriptors(error):
                raise
            self._on_unreadable(self._path, str(error))
            return {}
        return {
            broker: frozenset(each for each in filters if _can_be_sent(each))
            for broker, filters in stored.items()
        }


def _can_be_sent(topic_filter: str) -> bool:
    """Whether an UNSUBSCRIBE may contain the filter. Brokers disconnect for an invalid filter."""
    return 0 < len(topic_filter.encode()) <= MAX_BYTES and "\0" not in topic_filter
