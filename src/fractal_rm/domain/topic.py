"""MQTT topic names and filters (MQTT 5, 4.7)."""

from __future__ import annotations

from hashlib import blake2b

SHARED = "$share/"  # begins the filter of a shared subscription (4.8.2)
MOST_BYTES = 65_535
LARGEST_IDENTIFIER = 268_435_455  # MQTT 5, 3.8.2.1.2


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a message on ``topic`` is one of those that ``topic_filter`` asks for.

    A wildcard in the first level does not stand for a topic that begins with ``$``. Of a shared
    subscription (4.8.2) the filter behind the group's name counts.
    """
    if topic_filter.startswith(SHARED):
        topic_filter = topic_filter[len(SHARED) :].partition("/")[2]
    if topic[:1] == "$" and topic_filter[:1] in ("#", "+"):
        return False
    asked, levels = topic_filter.split("/"), topic.split("/")
    if asked[-1] == "#":  # stands for its parent level too
        asked.pop()
        levels = levels[: len(asked)]
    return len(asked) == len(levels) and all(
        want in ("+", level) for want, level in zip(asked, levels, strict=True)
    )


def topic_fault(topic: str, most_bytes: int = MOST_BYTES) -> str | None:
    """Why nothing can be published on ``topic``, or None."""
    try:
        size = len(topic.encode())
    except UnicodeEncodeError:
        return "it is no text that UTF-8 can hold"
    if not 0 < size <= most_bytes:
        return f"it has {size} bytes, and 1 to {most_bytes} are taken"
    if any(c in topic for c in "+#\0"):
        return "it holds a wildcard or NUL"
    return None


def subscription_identifier(topic_filter: str) -> int:
    """The number by which a broker names a subscription in what it sends for it, 1 at least.

    It follows from the filter alone: what was sent to an earlier process may come to this one.
    """
    digest = blake2b(topic_filter.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % LARGEST_IDENTIFIER + 1
