"""Decode triggers: requests by MQTT, REST or schedule to run a flow with a payload.

The payload is checked once (`domain.strict_json`). Then it is stored as the bytes that arrived.
"""

from __future__ import annotations

import hashlib
import re
from codecs import BOM_UTF8
from enum import Enum

import msgspec

from fractal_rm.domain.cloud_event import CloudEvent, has_event_type, looks_like_event, read_event
from fractal_rm.domain.handoff.messages import OfferFields, ReceivedOffer, received_offer
from fractal_rm.domain.refusals import Malformed, TooLarge, WrongShape
from fractal_rm.domain.strict_json import check_json
from fractal_rm.domain.topic import name_fault

MAX_KEY_LENGTH = 200
MAX_BUDGET_MS = 2**53
MAX_CORRELATION_BYTES = 4_096
_TRACEPARENT = re.compile(  # ids of zeros and the version ff are invalid (3.2.2)
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)


class TriggerSource(str, Enum):
    """The kind of sender from which a trigger came."""

    MQTT = "mqtt"
    REST = "rest"
    PEER = "peer"
    SCHEDULE = "schedule"
    COMMAND = "command"  # `fractal-rm flows try`, or its page

    def __init__(self, text: str) -> None:
        self.text = text  # faster than the value of Enum, which is a Python function


class TriggerMetadata(msgspec.Struct, frozen=True):
    """Metadata outside the body of a trigger: HTTP headers or MQTT 5 properties.

    ``left_ms`` is the time within which the run must end, counted from the arrival on this node.
    """

    left_ms: int | None = None
    content_type: str | None = None
    reply_topic: str | None = None
    correlation: bytes | None = None
    traceparent: str | None = None


# There is an `Arrival` for each trigger. It has no reference cycles, so the garbage collector need
# not track it.
class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A message as MQTT, REST or a schedule delivers it, before it is decoded.

    ``key`` is the trigger id of the sender if it is outside the body: in the ``Idempotency-Key``
    header, or in an MQTT 5 user property. ``flow_id`` is set if the URL or the topic names the
    flow; the body is then only the payload. ``waited_ms`` is how long the message has waited on
    this node.
    """

    source: TriggerSource
    body: bytes
    key: str | None = None
    flow_id: str | None = None
    metadata: TriggerMetadata | None = None
    waited_ms: int = 0


class Trigger(msgspec.Struct, frozen=True, gc=False):
    """A request to run a flow. ``payload`` is JSON text.

    ``placed``: this node must execute the run; the balancer is not asked. ``key`` is the trigger
    id. ``scope`` is a prefix of the id. It is empty for the id of a trigger message or of a header
    ``Idempotency-Key``. Any other prefix begins with NUL, which no id from a sender contains.
    ``offer`` is set if the trigger is a hand-off. ``budget_ms`` is the time from now within which
    the run must end. ``reply_topic`` and ``correlation``: where the outcome is published.
    ``traceparent``: the trace to which the run belongs (W3C Trace Context).
    """

    flow_id: str
    payload: bytes
    placed: bool = False
    key: str | None = None
    offer: ReceivedOffer | None = None
    scope: str = ""
    budget_ms: int | None = None
    reply_topic: str | None = None
    correlation: bytes | None = None
    traceparent: str | None = None

    @property
    def dedup_key(self) -> str | None:
        """The key by which a repeated trigger is recognized. None: the trigger has no id."""
        return None if self.key is None else self.scope + self.key

    @property
    def has_options(self) -> bool:
        """Whether the trigger has a time limit, a reply topic or a trace."""
        return not (
            self.budget_ms is None and self.reply_topic is None and self.traceparent is None
        )

    def digest(self) -> str:
        """A hash of flow id and payload. It shows if triggers with one id have other content."""
        content = self.flow_id.encode() + b"\0" + self.payload
        return hashlib.blake2b(content, digest_size=16).hexdigest()


class _Message(OfferFields, kw_only=True, gc=False):
    """The known keys of a trigger. The original Runtime Manager also ignores all other keys."""

    id_flow: str | int
    payload: msgspec.Raw
    is_load_balancing: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    deadline_ms: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_message_decoder = msgspec.json.Decoder(_Message)
_any_decoder = msgspec.json.Decoder(msgspec.Raw)


def decode_trigger(arrival: Arrival, max_bytes: int) -> Trigger:
    """Decode a message. Raises TooLarge, Malformed, WrongContentType or WrongShape."""
    if len(arrival.body) > max_bytes:
        raise TooLarge(f"{len(arrival.body)} bytes, and the maximum is {max_bytes}")
    metadata = arrival.metadata
    if arrival.flow_id is not None:
        trigger = _from_payload(arrival, arrival.flow_id)
    else:
        arrival = _without_byte_order_mark(arrival)
        check_json(arrival.body)
        if metadata is not None and has_event_type(metadata.content_type):
            trigger = _from_event(read_event(arrival.body), arrival)
        else:
            trigger = _from_body(arrival)
    return trigger if metadata is None else _with_metadata(trigger, metadata, arrival.waited_ms)


def _without_byte_order_mark(arrival: Arrival) -> Arrival:
    """Remove the byte order mark that may precede JSON (RFC 8259, 8.1)."""
    if not arrival.body.startswith(BOM_UTF8):
        return arrival
    return msgspec.structs.replace(arrival, body=arrival.body.removeprefix(BOM_UTF8))


def _from_body(arrival: Arrival) -> Trigger:
    """Decode a trigger message. A message by MQTT may also be a CloudEvent without content type."""
    try:
        return _from_message(arrival.body, arrival)
    except WrongShape:
        if arrival.source is TriggerSource.MQTT and looks_like_event(arrival.body):
            return _from_event(read_event(arrival.body), arrival)
        raise


def _from_event(event: CloudEvent, arrival: Arrival) -> Trigger:
    if event.data is None:
        raise WrongShape("the CloudEvent has no data: the data must be the trigger")
    trigger = _from_message(event.data, arrival)
    return msgspec.structs.replace(
        trigger,
        key=event.name,
        scope="\0event:",
        offer=None,
        traceparent=_valid_trace(event.traceparent),
    )


def _from_message(body: bytes, arrival: Arrival) -> Trigger:
    try:
        message = _message_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise WrongShape(_readable(str(error))) from None
    except msgspec.DecodeError as error:
        raise Malformed(str(error)) from None
    key, deadline, by_mqtt = arrival.key, message.deadline_ms, arrival.source is TriggerSource.MQTT
    if key is None and message.id is not msgspec.UNSET:
        key = _id_text(message.id)
    return Trigger(
        flow_id=str(message.id_flow),
        payload=bytes(message.payload),
        # The original Runtime Manager always asks its balancer about an MQTT trigger.
        placed=not by_mqtt and _is_placed(message),
        key=None if key is None else _checked_key(key),
        offer=None if by_mqtt else received_offer(message, body),
        budget_ms=None if deadline is msgspec.UNSET else _budget_ms(deadline, arrival.waited_ms),
    )


# --- triggers whose URL or topic names the flow ---------------------------------------------------


def _from_payload(arrival: Arrival, flow_id: str) -> Trigger:
    """Decode a body that is the payload, or a CloudEvent with the payload as its data."""
    by_topic = arrival.source is TriggerSource.MQTT
    if (
        arrival.source is TriggerSource.SCHEDULE
    ):  # this program made it, so there is nothing to check
        return Trigger(flow_id, arrival.body, key=arrival.key, scope=f"\0schedule:{flow_id}:")
    key = None if arrival.key is None else _checked_key(arrival.key)
    scope, trace = f"\0topic:{flow_id}:" if by_topic else "", None
    payload = _json_or_text(arrival.body) if by_topic else _checked_json(arrival.body)
    if _is_event(arrival.metadata, payload, by_topic=by_topic):
        event = read_event(payload)
        payload, key, trace = event.data or b"null", event.name, _valid_trace(event.traceparent)
        scope = scope or "\0event:"
    return Trigger(flow_id, payload, key=key, scope=scope, traceparent=trace)


def _is_event(metadata: TriggerMetadata | None, payload: bytes, *, by_topic: bool) -> bool:
    if metadata is not None and has_event_type(metadata.content_type):
        return True
    return by_topic and looks_like_event(payload)


def _checked_json(body: bytes) -> bytes:
    body = body.removeprefix(BOM_UTF8)
    check_json(body)
    try:
        return bytes(_any_decoder.decode(body))
    except msgspec.DecodeError as error:
        raise Malformed(str(error)) from None


def _json_or_text(body: bytes) -> bytes:
    """Return JSON unchanged, and any other text as a JSON string.

    Raises Malformed if the body is not UTF-8.
    """
    try:
        return _checked_json(body)
    except Malformed:
        try:
            return msgspec.json.encode(body.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise Malformed(f"byte {error.start} is not UTF-8") from None


# --- metadata outside the body --------------------------------------------------------------------


def _with_metadata(trigger: Trigger, metadata: TriggerMetadata, waited_ms: int) -> Trigger:
    budgets = [] if trigger.budget_ms is None else [trigger.budget_ms]
    if metadata.left_ms is not None:
        budgets.append(max(1, metadata.left_ms - waited_ms))
    return msgspec.structs.replace(
        trigger,
        budget_ms=min(budgets, default=None),
        reply_topic=_checked_reply_topic(metadata.reply_topic),
        correlation=_checked_correlation(metadata),
        traceparent=_valid_trace(metadata.traceparent) or trigger.traceparent,
    )


def _checked_reply_topic(topic: str | None) -> str | None:
    """Return the topic if it is a valid reply topic. Raises WrongShape.

    Topics that begin with ``$`` are not valid: they are reserved for brokers.
    """
    if topic is None:
        return None
    fault = name_fault(topic)
    reason = fault.why if fault else "the topic begins with $" if topic.startswith("$") else None
    if reason:
        raise WrongShape(f"nothing can be published on the response topic: {reason}")
    return topic


def _checked_correlation(metadata: TriggerMetadata) -> bytes | None:
    if metadata.reply_topic is None:
        return None
    if metadata.correlation is not None and len(metadata.correlation) > MAX_CORRELATION_BYTES:
        raise WrongShape(f"correlation data may have at most {MAX_CORRELATION_BYTES} bytes")
    return metadata.correlation


def _valid_trace(traceparent: str | None) -> str | None:
    """Return a valid traceparent, or None for an invalid one (W3C Trace Context, 4.3)."""
    if traceparent is None or len(traceparent) > MAX_KEY_LENGTH:
        return None
    return traceparent if _TRACEPARENT.fullmatch(traceparent) else None


def _budget_ms(raw: msgspec.Raw, waited_ms: int) -> int:
    try:
        budget_ms = msgspec.json.decode(raw, type=int)
    except msgspec.ValidationError:
        budget_ms = 0
    if not 0 < budget_ms <= MAX_BUDGET_MS:
        raise WrongShape("deadline_ms must be a positive whole number, in milliseconds")
    return max(1, budget_ms - waited_ms)


def _is_placed(message: _Message) -> bool:
    # In a REST trigger, the original Runtime Manager requires this key too, but it reads the text
    # "false" as true. Here only the JSON values true and false are accepted.
    raw = message.is_load_balancing
    if raw is msgspec.UNSET:
        raise WrongShape("the key is_load_balancing is missing")
    if bytes(raw) not in (b"true", b"false"):
        raise WrongShape("is_load_balancing must be true or false")
    return bytes(raw) == b"true"


def _id_text(raw: msgspec.Raw) -> str | None:
    if bytes(raw) == b"null":
        return None
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.ValidationError:
        raise WrongShape("id must be a string") from None


def _checked_key(key: str) -> str:
    if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable():
        raise WrongShape(f"a trigger id must have 1 to {MAX_KEY_LENGTH} printable characters")
    return key


def _readable(error: str) -> str:
    """Explain a validation error of msgspec to the sender of the message."""
    if "missing required field" in error:
        return f"the key {error.partition('`')[2].strip('`')} is missing"
    if "$.id_flow" in error:
        return "id_flow must be a text or a whole number"
    return "the message must be an object with the keys id_flow and payload"
