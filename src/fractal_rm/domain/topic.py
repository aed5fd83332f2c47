"""MQTT topic names and filters (MQTT 5, 4.7), and which of them a broker takes without harm.

A broker that does not take a topic may answer by closing the connection, and with it everybody
else's messages. So what is published at is bounded by what brokers in use take: Mosquitto closes
above 201 levels and at control characters, EMQX above 128 levels.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple

SHARED = "$share/"  # begins the filter of a shared subscription (4.8.2)
MOST_BYTES = 65_535  # of a filter
MOST_NAME_BYTES = 1_000
MOST_LEVELS = 128
LARGEST_IDENTIFIER = 268_435_455  # MQTT 5, 3.8.2.1.2
# MQTT 5, 1.5.4: a receiver may close the connection for these. U+0000 it must.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_NO_CHARACTER = re.compile(
    "[\ufdd0-\ufdef" + "".join(chr(p << 16 | end) for p in range(17) for end in (0xFFFE, 0xFFFF))
    + "]"
)  # fmt: skip


class Fault(NamedTuple):
    """Why a topic or a filter cannot be used, and what helps."""

    why: str
    hint: str | None = None


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a message on ``topic`` is one of those that ``topic_filter`` asks for.

    A wildcard in the first level does not stand for a topic that begins with ``$``. Of a shared
    subscription (4.8.2) the filter behind the group's name counts.
    """
    topic_filter = unshared(topic_filter)
    if topic[:1] == "$" and topic_filter[:1] in ("#", "+"):
        return False
    asked, levels = topic_filter.split("/"), topic.split("/")
    if asked[-1] == "#":  # stands for its parent level too
        asked.pop()
        levels = levels[: len(asked)]
    return len(asked) == len(levels) and all(
        want in ("+", level) for want, level in zip(asked, levels, strict=True)
    )


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic that the filter ``narrow`` matches is matched by ``wide``, too."""
    wide, narrow = unshared(wide), unshared(narrow)
    if narrow.split("/")[-1] == "#" and wide.split("/")[-1] != "#":
        return False
    # A wildcard of `narrow` is a level that only the same wildcard, or a wider one, stands for.
    return matches(wide, narrow) and all(
        want != "+" or level != "#"
        for want, level in zip(wide.split("/"), narrow.split("/"), strict=False)
    )


def unshared(topic_filter: str) -> str:
    """The filter without the name of the group that shares it."""
    if topic_filter.startswith(SHARED):
        return topic_filter[len(SHARED) :].partition("/")[2]
    return topic_filter


def has_wildcards(topic_filter: str) -> bool:
    """Whether it stands for more than one topic."""
    return "+" in topic_filter or "#" in topic_filter


def name_fault(topic: str) -> Fault | None:
    """Why nothing is published on ``topic``, or None."""
    for sign in "+#":
        if sign in topic:
            return Fault(f"a message goes to one topic, and {sign} stands for many",
                         "+ and # are for ON only")  # fmt: skip
    return _text_fault(topic, MOST_NAME_BYTES)


def filter_fault(topic_filter: str) -> Fault | None:
    """Why nothing can be subscribed to by ``topic_filter``, or None."""
    fault = _text_fault(topic_filter, MOST_BYTES)
    if fault is not None:
        return fault
    if f"{topic_filter}/".startswith(SHARED):  # `$share` by itself, too
        group, slash, shared = topic_filter.removeprefix(SHARED).partition("/")
        if not (group and slash and shared) or has_wildcards(group):
            return Fault("this shared subscription has no group or no topic",
                         "it is written: $share/<group>/<topic>")  # fmt: skip
    *levels, last = unshared(topic_filter).split("/")
    if any("#" in level for level in levels) or ("#" in last and last != "#"):
        return Fault("# stands for everything below, so it is the last level, alone",
                     "write: factory/#; for any one level there is +")  # fmt: skip
    if any("+" in level and level != "+" for level in (*levels, last)):
        return Fault("+ stands for one whole level", "write: factory/+/frame")
    return None


def _text_fault(topic: str, most_bytes: int) -> Fault | None:
    try:
        size = len(topic.encode())
    except UnicodeEncodeError:
        return Fault("half of a surrogate pair cannot be in a topic")
    if not topic:
        return Fault("a topic has at least one character")
    if size > most_bytes:
        return Fault(f"a topic has at most {most_bytes} bytes, and this one has {size}")
    if topic.count("/") >= MOST_LEVELS:
        return Fault(f"a topic has at most {MOST_LEVELS} levels,"
                     f" and this one has {topic.count('/') + 1}")  # fmt: skip
    character = not_taken(topic)
    if character:
        return Fault(f"{character} cannot be in a topic: brokers close the connection")
    return None


def not_taken(text: str) -> str | None:
    """The first character for which a broker may close the connection (MQTT 5, 1.5.4), or None."""
    found = _CONTROL.search(text) or _NO_CHARACTER.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def status_topic(client_id: str) -> str:
    """Where a node says how it is."""
    return f"fractal-rm/{client_id}/status"


def subscription_identifier(topic_filter: str) -> int:
    """The number by which a broker names a subscription in what it sends for it, 1 at least.

    It follows from the filter alone: what was sent to an earlier process may come to this one.
    """
    digest = blake2b(topic_filter.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % LARGEST_IDENTIFIER + 1
