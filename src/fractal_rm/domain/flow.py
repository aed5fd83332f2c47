"""A flow: calls in order, as flows.conf states them, after every check has passed.

These values are also what the journal keeps of a flow, so that a run ends with the flow that it
began with (G13): fields are only ever added, with defaults.
"""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import Union

import msgspec


class Method(str, Enum):
    """The HTTP method of a call. The seed's language has these two."""

    GET = "GET"
    POST = "POST"


class Payload(msgspec.Struct, frozen=True, tag="payload"):
    """The item ``payload``: the trigger's payload, as it came."""


class Result(msgspec.Struct, frozen=True, tag="result"):
    """The item ``resultN``: the response text of the N-th call of this flow, counted from 1."""

    number: int


Item = Union[Payload, Result]


class Durable(str, Enum):
    """What must be on the disk before a call leaves: the trigger, or every step before it too.

    Under ``accept`` steps are written behind, and a crash may repeat the last calls under their
    keys; under ``step`` it can repeat only the one call that was in flight.
    """

    ACCEPT = "accept"
    STEP = "step"


class Call(msgspec.Struct, frozen=True, tag="call"):
    """One ``GET`` or ``POST`` and the ``TO`` that it stands under.

    ``number`` counts the flow's calls from 1, ``line`` is its line in flows.conf, counted from 1.
    ``items`` are the body of a POST in order, and empty for a GET.
    """

    number: int
    component: str
    endpoint: str
    method: Method
    items: tuple[Item, ...] = ()
    line: int = 0


class Flow(msgspec.Struct, frozen=True):
    """One flow. ``id`` is the number of its first line, as text; ``title`` the rest of it."""

    id: str
    title: str = ""
    steps: tuple[Call, ...] = ()
    line: int = 0
    durable: Durable = Durable.ACCEPT


def flow_version(flow: Flow) -> str:
    """Names exactly this definition: the journal keeps each one once."""
    return version_of(msgspec.json.encode(flow))


def version_of(body: bytes) -> str:
    """The version of a flow as it was written down, perhaps by a release that knew less of it."""
    return hashlib.blake2b(body, digest_size=12).hexdigest()
