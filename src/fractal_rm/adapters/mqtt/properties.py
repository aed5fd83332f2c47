"""Reads the properties of a PUBLISH packet (MQTT 5, 3.3.2.3)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from fractal_rm.adapters.mqtt.packets import read_length
from fractal_rm.domain.trigger import TriggerMetadata

_U16 = struct.Struct("!H")
_TRIGGER_ID_NAMES = ("idempotency-key", "id")
_SUBSCRIPTION, _USER = 0x0B, 0x26

Properties = tuple["str | None", "TriggerMetadata | None", tuple[int, ...]]


def read_properties(data: bytes) -> Properties:
    """Return the trigger id, the other metadata, and the subscription identifiers.

    Raises ValueError with the reason if ``data`` cannot be read.
    """
    key: str | None = None
    subscriptions: tuple[int, ...] = ()
    metadata: dict[str, Any] = {}
    at = 0
    try:
        while at < len(data):
            kind = data[at]
            if kind not in _READERS:
                raise ValueError(f"a PUBLISH packet has no property {kind}")
            name, read = _READERS[kind]
            value, at = read(data, at + 1)
            if kind == _USER:
                user_name, user_value = value
                if user_name in _TRIGGER_ID_NAMES:
                    key = user_value if key is None else key
                elif user_name == "traceparent":
                    metadata[user_name] = user_value
            elif kind == _SUBSCRIPTION:
                subscriptions += (value,)
            elif name:
                metadata[name] = value
    except (IndexError, struct.error):
        raise ValueError("the packet ends in the middle of a property") from None
    trigger_metadata = TriggerMetadata(**metadata) if metadata else None
    return key, trigger_metadata, subscriptions


def _bytes(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    end = at + size
    if end > len(data):
        raise IndexError
    return data[at:end], end


def _binary(data: bytes, at: int) -> tuple[bytes, int]:
    """Read binary data, which begins with its length (MQTT 5, 1.5.6)."""
    (size,) = _U16.unpack_from(data, at)
    return _bytes(data, at + 2, size)


def _text(data: bytes, at: int) -> tuple[str, int]:
    value, at = _binary(data, at)
    return value.decode("utf-8"), at


def _pair(data: bytes, at: int) -> tuple[tuple[str, str], int]:
    """Read a name and its value. The name is returned in lower case."""
    name, at = _text(data, at)
    value, at = _text(data, at)
    return (name.lower(), value), at


def _seconds(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of seconds from four bytes. Returns it in milliseconds."""
    number, at = _bytes(data, at, 4)
    return int.from_bytes(number, "big") * 1000, at


# For each property that a PUBLISH can have: its name in `TriggerMetadata` ("" if it is not stored
# there), and the function that reads it.
_READERS: dict[int, tuple[str, Callable[[bytes, int], tuple[Any, int]]]] = {
    0x01: ("", lambda data, at: _bytes(data, at, 1)),  # payload format indicator
    0x02: ("left_ms", _seconds),  # message expiry interval
    0x03: ("content_type", _text),
    0x08: ("reply_topic", _text),
    0x09: ("correlation", _binary),
    _SUBSCRIPTION: ("", read_length),
    0x23: ("", lambda data, at: _bytes(data, at, 2)),  # topic alias; not used, see `read_publish`
    _USER: ("", _pair),
}
