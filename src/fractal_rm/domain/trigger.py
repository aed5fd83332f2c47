"""A trigger: "run flow 7 with this payload". The one strict decoder for every way in.

What a sender may write is stricter than what JSON libraries accept, because each leniency has
made two programs read one message differently: a key given twice, NaN, a nesting that exhausts
the stack. The payload is checked once and then carried as the bytes that came.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from enum import Enum
from typing import Any, NoReturn

import msgspec

from fractal_rm.domain.errors import Malformed, TooLarge, WrongShape
from fractal_rm.domain.run_id import is_run_id

MAX_DEPTH = 64
MAX_KEY_LENGTH = 200
MAX_EPOCH = 2**53


class Source(str, Enum):
    """The way by which a trigger came in."""

    MQTT = "mqtt"
    REST = "rest"
    PEER = "peer"


class Arrival(msgspec.Struct, frozen=True):
    """Bytes and what came with them, as a way in hands them over.

    ``key`` is the sender's id of the trigger where it stands outside the body (the
    ``Idempotency-Key`` header, the MQTT 5 user property). ``flow_id`` is given where the address
    names the flow; the body is then the payload alone.
    """

    source: Source
    body: bytes
    key: str | None = None
    flow_id: str | None = None


class Offer(msgspec.Struct, frozen=True):
    """What one of our own peers adds to a hand-off: whose run this is, and which offer of it."""

    run: str
    epoch: int
    sender: str = ""


class Trigger(msgspec.Struct, frozen=True):
    """A message that asks for a run. ``payload`` is JSON text; ``placed`` means: run it here."""

    flow_id: str
    payload: bytes
    placed: bool = False
    key: str | None = None
    offer: Offer | None = None

    def digest(self) -> str:
        """Names the content, to tell a repeated trigger from another one under its id (G3)."""
        content = self.flow_id.encode() + b"\0" + self.payload
        return hashlib.blake2b(content, digest_size=16).hexdigest()


class _Message(msgspec.Struct):
    """The keys that mean something; others are ignored, as the original does."""

    id_flow: str | int
    payload: msgspec.Raw
    is_load_balancing: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    run: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    epoch: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    sender: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_message_decoder = msgspec.json.Decoder(_Message)
_any_decoder = msgspec.json.Decoder(msgspec.Raw)


def decode_trigger(arrival: Arrival, max_bytes: int) -> Trigger:
    """Read an arrival. Raises TooLarge, Malformed or WrongShape, in this order."""
    if len(arrival.body) > max_bytes:
        raise TooLarge(f"{len(arrival.body)} bytes, and at most {max_bytes} are taken")
    check_json(arrival.body)
    # What is taken must be readable by every decoder that the journal and the peers have: Python's
    # takes half of a surrogate pair, which is no character.
    try:
        if arrival.flow_id is not None:
            payload = bytes(_any_decoder.decode(arrival.body))
            return Trigger(arrival.flow_id, payload, key=_checked_key(arrival.key))
        message = _message_decoder.decode(arrival.body)
    except msgspec.ValidationError as error:
        raise WrongShape(_readable(str(error))) from None
    except msgspec.DecodeError as error:
        raise Malformed(str(error)) from None
    return Trigger(
        flow_id=str(message.id_flow),
        payload=bytes(message.payload),
        placed=_placed(message, arrival.source),
        key=_checked_key(arrival.key if arrival.key is not None else _text(message.id, "id")),
        offer=_offer(message) if arrival.source is not Source.MQTT else None,
    )


def check_json(body: bytes) -> None:
    """Raise Malformed unless ``body`` is one JSON text as this project reads JSON."""
    try:
        text = body.decode("utf-8").strip(_SPACE)
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8 at byte {error.start}") from None
    if not text:
        raise Malformed("it is empty")
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(text)
    try:
        _, end = _scan(text, 0)
    except StopIteration as stop:
        raise Malformed(f"a value is missing at character {stop.value}") from None
    except ValueError as error:
        raise Malformed(str(error)) from None
    if end < len(text):
        raise Malformed(f"something follows its end, at character {end}")


def _check_depth(text: str) -> None:
    """Raise Malformed where brackets nest deeper than MAX_DEPTH; strings are stepped over."""
    depth = 0
    in_string = escaped = False
    for position, c in enumerate(text):
        if in_string:
            if escaped:
                escaped = False
            elif c == "\\":
                escaped = True
            elif c == '"':
                in_string = False
        elif c == '"':
            in_string = True
        elif c in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise Malformed(f"nested deeper than {MAX_DEPTH} at character {position}")
        elif c in "]}":
            depth -= 1


def _refuse_twins(pairs: list[tuple[str, Any]]) -> None:
    """Only the checks matter here, so nothing is built."""
    if len(pairs) > 1:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:40]!r} is given twice")
            seen.add(key)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_SPACE = " \t\r\n"
_strict: Any = json.JSONDecoder(object_pairs_hook=_refuse_twins, parse_constant=_refuse_constant)
# Without the wrapper that looks for space around it; its stub does not know it.
_scan: Callable[[str, int], tuple[Any, int]] = _strict.scan_once


def _placed(message: _Message, source: Source) -> bool:
    # Over MQTT the original asks its balancer whatever the message says; over REST all three
    # keys are mandatory there, and "false" would count as true: ours wants a boolean.
    if source is Source.MQTT:
        return False
    raw = message.is_load_balancing
    if raw is msgspec.UNSET:
        raise WrongShape("the key is_load_balancing is missing")
    if bytes(raw) not in (b"true", b"false"):
        raise WrongShape("is_load_balancing must be true or false")
    return bytes(raw) == b"true"


def _offer(message: _Message) -> Offer | None:
    """The receipt keys of a hand-off; a sender that has other uses for these names is no peer.

    A run's name becomes a header of every call, so nothing but a name of ours is taken for one.
    """
    try:
        run = _text(message.run, "run")
        if run is None or not is_run_id(run) or message.epoch is msgspec.UNSET:
            return None
        epoch = msgspec.json.decode(message.epoch, type=int)
        sender = _text(message.sender, "sender") or ""
    except (WrongShape, msgspec.ValidationError):
        return None
    if not 1 <= epoch <= MAX_EPOCH:
        return None
    return Offer(run, epoch, sender[:MAX_KEY_LENGTH])


def _text(raw: msgspec.Raw | msgspec.UnsetType, name: str) -> str | None:
    if raw is msgspec.UNSET or bytes(raw) == b"null":
        return None
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.ValidationError:
        raise WrongShape(f"{name} must be a string") from None


def _checked_key(key: str | None) -> str | None:
    if key is None:
        return None
    if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable():
        raise WrongShape(f"a trigger id is 1 to {MAX_KEY_LENGTH} printable characters")
    return key


def _readable(error: str) -> str:
    """Msgspec's sentence, in the words of the message's sender."""
    if "missing required field" in error:
        return f"the key {error.partition('`')[2].strip('`')} is missing"
    if "$.id_flow" in error:
        return "id_flow must be a text or a whole number"
    return "the message must be an object with the keys id_flow and payload"
