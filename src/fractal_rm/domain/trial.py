"""Payloads that people write for a run of a flow: how they are shown, and what they lack."""

from __future__ import annotations

import json

import msgspec

from fractal_rm.domain.expression import Payload
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.missing_fields import MissingField, StepValues, missing_fields
from fractal_rm.domain.safe_text import safe_text
from fractal_rm.domain.strict_json import read_json


def fields_that_are_missing(flow: Flow, payload: bytes) -> list[MissingField]:
    """The fields of the payload that the steps of a flow use, and that a payload does not have.

    ``payload`` is JSON. The flow reads such a field as null.
    """
    values = StepValues(msgspec.Raw(payload))
    found = {
        missing.reference: missing
        for step in flow.steps
        for missing in missing_fields(step, step, values)
        if isinstance(missing.reference, Payload)
    }
    return list(found.values())


def payload_to_edit(payload: bytes) -> str:
    """A payload as text that a person can read and change.

    Characters that would mislead them are written as escapes of JSON, so the value is the same.
    """
    text = msgspec.json.format(payload, indent=2).decode()
    return "".join(
        each if each == "\n" or safe_text(each) == each else _escaped(each) for each in text
    )


def payload_to_send(text: str) -> bytes:
    """The payload in what a person has written, without white space. Raises Malformed."""
    body = text.strip().encode()
    _ = read_json(body)
    return msgspec.json.format(body, indent=-1)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]
