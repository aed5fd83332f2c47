"""The properties of a PUBLISH packet (MQTT 5, 3.3.2.3), as far as they mean something here."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from fractal_rm.adapters.mqtt.packets import read_length
from fractal_rm.domain.trigger import Said

_U16 = struct.Struct("!H")
_KEYS = ("idempotency-key", "id")
_SUBSCRIPTION, _USER = 0x0B, 0x26

Found = tuple["str | None", "Said | None", tuple[int, ...]]


def read_properties(data: bytes) -> Found:
    """The trigger id, what else is said, and the subscriptions. Raises ValueError in words."""
    key: str | None = None
    subscriptions: tuple[int, ...] = ()
    said: dict[str, Any] = {}
    at = 0
    try:
        while at < len(data):
            kind = data[at]
            if kind not in _READ:
                raise ValueError(f"there is no MQTT property {kind} of a message")
            name, read = _READ[kind]
            value, at = read(data, at + 1)
            if kind == _USER:
                name, value = value
                if name in _KEYS:
                    key = value if key is None else key
                elif name == "traceparent":
                    said[name] = value
            elif kind == _SUBSCRIPTION:
                subscriptions += (value,)
            elif name:
                said[name] = value
    except (IndexError, struct.error):
        raise ValueError("they are cut short") from None
    return key, Said(**said) if said else None, subscriptions


def _bytes(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    end = at + size
    if end > len(data):
        raise IndexError
    return data[at:end], end


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    """Bytes with their length before them (MQTT 5, 1.5.6)."""
    return _bytes(data, at + 2, _U16.unpack_from(data, at)[0])


def _text(data: bytes, at: int) -> tuple[str, int]:
    value, at = _sized(data, at)
    return value.decode("utf-8"), at


def _pair(data: bytes, at: int) -> tuple[tuple[str, str], int]:
    """The name in lower case, and the value."""
    name, at = _text(data, at)
    value, at = _text(data, at)
    return (name.lower(), value), at


def _seconds(data: bytes, at: int) -> tuple[int, int]:
    number, at = _bytes(data, at, 4)
    return int.from_bytes(number, "big") * 1000, at


# Of every property of a PUBLISH its name in `Said`, if it means something here, and how it is read.
_READ: dict[int, tuple[str, Callable[[bytes, int], tuple[Any, int]]]] = {
    0x01: ("", lambda data, at: _bytes(data, at, 1)),  # payload format indicator
    0x02: ("left_ms", _seconds),  # message expiry interval
    0x03: ("content_type", _text),
    0x08: ("reply_topic", _text),
    0x09: ("correlation", _sized),
    _SUBSCRIPTION: ("", read_length),
    0x23: ("", lambda data, at: _bytes(data, at, 2)),  # topic alias: none are offered
    _USER: ("", _pair),
}
