"""The properties of a PUBLISH packet (MQTT 5, 3.3.2.3), as far as they mean something here."""

from __future__ import annotations

import struct
from typing import Any

from fractal_rm.adapters.mqtt.packets import read_length
from fractal_rm.domain.trigger import Said

_EXPIRY, _CONTENT_TYPE, _RESPONSE_TOPIC, _CORRELATION = 0x02, 0x03, 0x08, 0x09
_SUBSCRIPTION, _USER = 0x0B, 0x26
_SIZES = {0x01: 1, _EXPIRY: 4, 0x23: 2}  # of numbers; a payload format and an alias are passed over
_KEYS = ("idempotency-key", "id")
_U16 = struct.Struct("!H")

Found = tuple["str | None", "Said | None", tuple[int, ...]]


def read_properties(data: bytes) -> Found:
    """The trigger id, what else is said, and the subscriptions. Raises ValueError in words."""
    key: str | None = None
    subscriptions: tuple[int, ...] = ()
    said: dict[str, Any] = {}
    at = 0
    try:
        while at < len(data):
            kind, at = data[at], at + 1
            if kind == _USER:
                name, at = _text(data, at)
                value, at = _text(data, at)
                name = name.lower()
                if name in _KEYS:
                    key = value if key is None else key
                elif name == "traceparent":
                    said[name] = value
            elif kind == _SUBSCRIPTION:
                identifier, at = read_length(data, at)
                subscriptions += (identifier,)
            elif kind in _SIZES:
                number, at = _bytes(data, at, _SIZES[kind])
                if kind == _EXPIRY:
                    said["left_ms"] = int.from_bytes(number, "big") * 1000
            elif kind == _CONTENT_TYPE:
                said["content_type"], at = _text(data, at)
            elif kind == _RESPONSE_TOPIC:
                said["reply_topic"], at = _text(data, at)
            elif kind == _CORRELATION:
                said["correlation"], at = _sized(data, at)
            else:
                raise ValueError(f"there is no MQTT property {kind} of a message")
    except (IndexError, struct.error):
        raise ValueError("they are cut short") from None
    return key, Said(**said) if said else None, subscriptions


def _text(data: bytes, at: int) -> tuple[str, int]:
    value, at = _sized(data, at)
    return value.decode("utf-8"), at


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    """Bytes with their length before them (MQTT 5, 1.5.4 and 1.5.6)."""
    return _bytes(data, at + 2, _U16.unpack_from(data, at)[0])


def _bytes(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    end = at + size
    if end > len(data):
        raise IndexError
    return data[at:end], end
