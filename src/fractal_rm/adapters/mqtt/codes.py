"""Reason codes in words (MQTT 5, 2.4; the return codes of MQTT 3.1.1, 3.2.2.3)."""

from __future__ import annotations

REFUSED = 0x80  # a reason code of that or more; in 3.1.1 a SUBACK has it too
NOT_AUTHORIZED = 0x87
OTHER_VERSION = 0x84
TAKEN_OVER = 0x8E
QUOTA = 0x97
NO_RETAINED = 0x9A
NO_QOS = 0x9B
NO_SHARED = 0x9E
NO_WILDCARDS = 0xA2

_WORDS = {
    0x01: "it does not speak this version of MQTT",
    0x02: "it does not take this client id",
    0x03: "it is unavailable",
    0x04: "bad user name or password",
    0x05: "not authorized",
    0x80: "it does not say why",
    0x81: "a packet that it cannot read",
    0x82: "a packet that is against the protocol",
    0x83: "a reason of its own",
    OTHER_VERSION: "it does not speak this version of MQTT",
    0x85: "it does not take this client id",
    0x86: "bad user name or password",
    NOT_AUTHORIZED: "not authorized",
    0x88: "it is unavailable",
    0x89: "it is busy",
    0x8A: "this client is banned",
    0x8B: "it is shutting down",
    0x8C: "bad authentication method",
    0x8D: "it has heard nothing for too long",
    TAKEN_OVER: "another client has connected under the same client id",
    0x8F: "it does not take this topic filter",
    0x90: "it does not take this topic",
    0x91: "the packet id is in use",
    0x93: "more messages at once than it takes",
    0x94: "a topic alias that it does not take",
    0x95: "a packet larger than it takes",
    0x96: "messages faster than it takes them",
    QUOTA: "a quota is used up",
    0x98: "somebody who administers it wants that",
    0x99: "a payload that is not in the format that was said",
    NO_RETAINED: "it has no retained messages",
    NO_QOS: "it does not have this quality of service",
    0x9C: "another server is to be used",
    0x9D: "it has moved",
    NO_SHARED: "it has no shared subscriptions",
    0x9F: "connections faster than it takes them",
    0xA0: "the longest time for a connection is over",
    0xA1: "it does not number subscriptions",
    NO_WILDCARDS: "it has no subscriptions with wildcards",
}
# A connection that the broker ends for one of these ends for nothing that was sent on it.
NOT_OURS = frozenset({0x88, 0x89, 0x8B, 0x8D, TAKEN_OVER, 0x98, 0x9C, 0x9D, 0xA0})
# A PUBACK of these says nothing of the next try.
PASSING = frozenset({0x91, QUOTA})


def in_words(code: int) -> str:
    """What a reason code says, and its number."""
    return f"{_WORDS.get(code, 'an unknown reason')} (0x{code:02x})"
