"""MQTT topic names and filters (MQTT 5, 4.7).

A broker that does not accept a topic may close the connection. Then all other messages wait. So
only topics that common brokers accept are allowed. Mosquitto closes the connection if a topic has
more than 201 levels, or control characters. EMQX closes it if a topic has more than 128 levels.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple

SHARED = "$share/"  # the filter of a shared subscription begins with this prefix (4.8.2)
MAX_BYTES = 65_535  # the maximum length of a topic filter
MAX_NAME_BYTES = 1_000  # the maximum length of a topic to publish on
MAX_LEVELS = 128
MAX_IDENTIFIER = 268_435_455  # MQTT 5, 3.8.2.1.2
# A receiver may close the connection if a text has one of these characters; it must do so for
# U+0000 (MQTT 5, 1.5.4).
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_NONCHARACTER = re.compile(
    "[\ufdd0-\ufdef" + "".join(chr(p << 16 | end) for p in range(17) for end in (0xFFFE, 0xFFFF))
    + "]"
)  # fmt: skip


class Fault(NamedTuple):
    """Why a topic or a filter cannot be used, and what to do."""

    why: str
    hint: str | None = None


def matches(topic_filter: str, topic: str) -> bool:
    """Whether ``topic_filter`` matches ``topic``.

    A wildcard in the first level does not match a topic that begins with ``$``. In a shared
    subscription (4.8.2), the filter is the part after the name of the group.
    """
    topic_filter = unshared(topic_filter)
    if topic[:1] == "$" and topic_filter[:1] in ("#", "+"):
        return False
    filter_levels, levels = topic_filter.split("/"), topic.split("/")
    if filter_levels[-1] == "#":  # a filter with # at the end also matches the parent level
        filter_levels.pop()
        levels = levels[: len(filter_levels)]
    return len(filter_levels) == len(levels) and all(
        filter_level in ("+", level)
        for filter_level, level in zip(filter_levels, levels, strict=True)
    )


def covers(wider: str, narrower: str) -> bool:
    """Whether the filter ``wider`` matches every topic that the filter ``narrower`` matches."""
    wider, narrower = unshared(wider), unshared(narrower)
    if narrower.split("/")[-1] == "#" and wider.split("/")[-1] != "#":
        return False
    # `matches` compares a wildcard in `narrower` as if it was the name of a level, so only a
    # wildcard matches it. But `matches` also accepts + for #, which + does not cover.
    return matches(wider, narrower) and all(
        filter_level != "+" or level != "#"
        for filter_level, level in zip(wider.split("/"), narrower.split("/"), strict=False)
    )


def unshared(topic_filter: str) -> str:
    """The filter of a subscription, without the prefix and the group of a shared subscription."""
    if topic_filter.startswith(SHARED):
        return topic_filter[len(SHARED) :].partition("/")[2]
    return topic_filter


def has_wildcards(topic_filter: str) -> bool:
    """Whether a topic filter contains wildcards, so that it can match several topics."""
    return "+" in topic_filter or "#" in topic_filter


def name_fault(topic: str) -> Fault | None:
    """The fault of a topic to publish on, or None if it can be used."""
    for wildcard in "+#":
        if wildcard in topic:
            return Fault(f"a message is published on one topic, and {wildcard} is a wildcard",
                         "+ and # can be used only after ON")  # fmt: skip
    return _text_fault(topic, MAX_NAME_BYTES)


def filter_fault(topic_filter: str) -> Fault | None:
    """The fault of a topic filter, or None if it can be used in a subscription."""
    fault = _text_fault(topic_filter, MAX_BYTES)
    if fault is not None:
        return fault
    if f"{topic_filter}/".startswith(SHARED):  # also `$share` alone
        group, slash, shared = topic_filter.removeprefix(SHARED).partition("/")
        if not (group and slash and shared) or has_wildcards(group):
            return Fault("this shared subscription has no group or no topic",
                         "write: $share/<group>/<topic>")  # fmt: skip
    *levels, last = unshared(topic_filter).split("/")
    if any("#" in level for level in levels) or ("#" in last and last != "#"):
        return Fault("# matches all levels below, so it must be the whole last level",
                     "write: factory/#; + matches any one level")  # fmt: skip
    if any("+" in level and level != "+" for level in (*levels, last)):
        return Fault(
            "+ matches one whole level, so it must be the only character of the level",
            "write: factory/+/frame",
        )
    return None


def _text_fault(topic: str, max_bytes: int) -> Fault | None:
    try:
        size = len(topic.encode())
    except UnicodeEncodeError:
        return Fault("a topic cannot contain half of a surrogate pair")
    if not topic:
        return Fault("a topic has at least one character")
    if size > max_bytes:
        return Fault(f"a topic has at most {max_bytes} bytes, and this one has {size}")
    if topic.count("/") >= MAX_LEVELS:
        return Fault(f"a topic has at most {MAX_LEVELS} levels,"
                     f" and this one has {topic.count('/') + 1}")  # fmt: skip
    character = forbidden_character(topic)
    if character:
        return Fault(f"a topic cannot contain {character}: brokers close the connection")
    return None


def forbidden_character(text: str) -> str | None:
    """The first character for which a broker may close the connection (MQTT 5, 1.5.4), or None."""
    match = _CONTROL.search(text) or _NONCHARACTER.search(text)
    return f"U+{ord(match[0]):04X}" if match else None


def status_topic(client_id: str) -> str:
    """The topic of a node's status."""
    return f"fractal-rm/{client_id}/status"


def subscription_identifier(topic_filter: str) -> int:
    """The identifier, at least 1, that a broker adds to messages for this subscription.

    The identifier depends only on the filter, so that all processes of a node use the same one:
    this process may receive messages for a subscription of an earlier process.
    """
    digest = blake2b(topic_filter.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % MAX_IDENTIFIER + 1
