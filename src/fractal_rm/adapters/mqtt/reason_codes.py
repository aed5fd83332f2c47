"""The meanings of reason codes (MQTT 5, 2.4) and of return codes (MQTT 3.1.1, 3.2.2.3)."""

from __future__ import annotations

REFUSED = 0x80  # this code and all higher codes are errors, also in a SUBACK of MQTT 3.1.1
NOT_AUTHORIZED = 0x87
UNSUPPORTED_VERSION = 0x84
TAKEN_OVER = 0x8E
QUOTA = 0x97
NO_RETAINED = 0x9A
NO_QOS = 0x9B
NO_SHARED = 0x9E
NO_WILDCARDS = 0xA2

_WORDS = {
    0x01: "it does not support this version of MQTT",
    0x02: "it does not accept this client id",
    0x03: "it is unavailable",
    0x04: "bad user name or password",
    0x05: "not authorized",
    0x80: "unspecified error",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x83: "implementation specific error",
    UNSUPPORTED_VERSION: "it does not support this version of MQTT",
    0x85: "it does not accept this client id",
    0x86: "bad user name or password",
    NOT_AUTHORIZED: "not authorized",
    0x88: "it is unavailable",
    0x89: "it is busy",
    0x8A: "this client is banned",
    0x8B: "it is shutting down",
    0x8C: "bad authentication method",
    0x8D: "keepalive timeout",
    TAKEN_OVER: "another client has connected with the same client id",
    0x8F: "it does not accept this topic filter",
    0x90: "it does not accept this topic",
    0x91: "the packet id is in use",
    0x93: "it got more unacknowledged messages than its Receive Maximum",
    0x94: "invalid topic alias",
    0x95: "packet too large",
    0x96: "message rate too high",
    QUOTA: "quota exceeded",
    0x98: "administrative action",
    0x99: "the payload does not match its format indicator",
    NO_RETAINED: "it does not support retained messages",
    NO_QOS: "it does not support this quality of service",
    0x9C: "another server must be used",
    0x9D: "the server has moved",
    NO_SHARED: "it does not support shared subscriptions",
    0x9F: "connection rate exceeded",
    0xA0: "maximum connect time exceeded",
    0xA1: "it does not support subscription identifiers",
    NO_WILDCARDS: "it does not support wildcard subscriptions",
}
# If a broker closes the connection with one of these codes, the cause is not a message.
_OTHER_CAUSES = frozenset({0x88, 0x89, 0x8B, 0x8D, TAKEN_OVER, 0x98, 0x9C, 0x9D, 0xA0})
# If a PUBACK has one of these codes, a retry may succeed.
TEMPORARY = frozenset({0x91, QUOTA})


def may_concern_message(code: int) -> bool:
    """Whether a message may be the cause if a broker closes the connection with this code."""
    return code not in _OTHER_CAUSES


def in_words(code: int) -> str:
    """Describe a reason code in words, followed by its number."""
    return f"{_WORDS.get(code, 'an unknown reason')} (0x{code:02x})"
