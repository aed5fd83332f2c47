"""The message of a dead letter, decoded as if it had just arrived."""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.domain.facts import Dead
from fractal_rm.domain.trigger import (
    Arrival,
    Trigger,
    TriggerMetadata,
    TriggerSource,
    decode_trigger,
)


def decode_letter(letter: Dead, body: bytes, max_trigger_bytes: int) -> Trigger:
    """The trigger in ``body``, which came the way of a dead letter. Raises Refused."""
    sources = {source.text: source for source in TriggerSource}
    metadata = None
    if letter.content_type is not UNSET:
        metadata = TriggerMetadata(content_type=letter.content_type)
    arrival = Arrival(
        sources.get(letter.source, TriggerSource.MQTT),
        body,
        flow_id=None if letter.flow_id is UNSET else letter.flow_id,
        metadata=metadata,
    )
    return decode_trigger(arrival, max_trigger_bytes)
