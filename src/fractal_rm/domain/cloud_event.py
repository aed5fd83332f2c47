"""CloudEvents 1.0 in structured mode: one JSON object with the event's attributes and its data."""

from __future__ import annotations

import msgspec

from fractal_rm.domain.refusals import Malformed, WrongContentType, WrongShape

MEDIA_TYPE = "application/cloudevents+json"
MAX_NAME_LENGTH = 1_000  # characters in source and id together
_MEDIA_TYPE_PREFIX = "application/cloudevents"
_REQUIRED = ("id", "source", "type")


class CloudEvent(msgspec.Struct, frozen=True):
    """The parts of an event that this program uses.

    ``name`` is the source and the id of the event, which together identify it. ``data`` is JSON
    text, or None if the event has no data.
    """

    name: str
    data: bytes | None
    traceparent: str | None = None


class _Attributes(msgspec.Struct):
    specversion: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    source: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    type: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    traceparent: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(_Attributes)


def has_event_type(content_type: str | None) -> bool:
    """Whether a content type is the one of a single CloudEvent in JSON.

    Raises WrongContentType for any other content type of CloudEvents, such as a batch.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if not kind.startswith(_MEDIA_TYPE_PREFIX):
        return False
    if kind != MEDIA_TYPE:
        raise WrongContentType(
            f"CloudEvents must have the content type {MEDIA_TYPE}, one event in a message"
        )
    return True


def looks_like_event(body: bytes) -> bool:
    """Whether a message is JSON with the version and the required attributes of a CloudEvent."""
    if b'"specversion"' not in body:
        return False
    try:
        event = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return _text(event.specversion) == "1.0" and all(_text(getattr(event, n)) for n in _REQUIRED)


def read_event(body: bytes) -> CloudEvent:
    """Decode a CloudEvent from valid JSON. Raises Malformed or WrongShape."""
    try:
        event = _decoder.decode(body)
    except msgspec.ValidationError:
        raise WrongShape("a CloudEvent must be a JSON object") from None
    except msgspec.DecodeError as error:
        raise Malformed(str(error)) from None
    version = _text(event.specversion)
    if version != "1.0":
        raise WrongShape('a CloudEvent must have "specversion": "1.0"')
    for name in _REQUIRED:
        if not _text(getattr(event, name)):
            raise WrongShape(f"a CloudEvent needs {name}, a text that is not empty")
    if event.data_base64 is not msgspec.UNSET:
        raise WrongShape("the CloudEvent must have JSON in data, not data_base64")
    data = None if event.data is msgspec.UNSET else bytes(event.data)
    return CloudEvent(_name(event), data, _text(event.traceparent))


def _name(event: _Attributes) -> str:
    # The source is a URI reference, which cannot contain a space. So the first space is the border.
    name = f"{_text(event.source)} {_text(event.id)}"
    if len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise WrongShape(
            f"source and id of a CloudEvent must be printable, with at most {MAX_NAME_LENGTH}"
            " characters together"
        )
    return name


def _text(raw: msgspec.Raw | msgspec.UnsetType) -> str | None:
    if raw is msgspec.UNSET:
        return None
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.MsgspecError:
        return None
