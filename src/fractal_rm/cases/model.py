"""A case: what comes in, what the world around answers, and what is expected of the flow."""

from __future__ import annotations

from binascii import b2a_base64
from enum import Enum
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.domain.state import State

WATCHED_MS = 7 * 24 * 3_600_000
START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


class Fault(str, Enum):
    """How a request can go without an answer."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    BROKEN = "broken"


class Said(msgspec.Struct, frozen=True):
    """A body: the bytes of a text as it is, any text that says this as JSON, or bytes."""

    text: str | UnsetType = UNSET
    json: Any = UNSET
    data: bytes | UnsetType = UNSET

    @property
    def anything(self) -> bool:
        """Whether it says nothing."""
        return self.text is UNSET and self.json is UNSET and self.data is UNSET

    def as_bytes(self) -> bytes:
        """The bytes of it; of JSON, those of one text that says it."""
        if self.data is not UNSET:
            return self.data
        if self.text is not UNSET:
            return self.text.encode()
        return b"" if self.json is UNSET else msgspec.json.encode(self.json)


def base64_text(data: bytes) -> str:
    """Bytes as text (RFC 4648, 4)."""
    return b2a_base64(data, newline=False).decode()


def said_in(body: bytes) -> Said:
    """A body as it came: a text, or bytes that are none."""
    try:
        return Said(body.decode())
    except UnicodeDecodeError:
        return Said(data=body)


class Selector(msgspec.Struct, frozen=True):
    """Which requests are meant: all for which nothing that is said differs.

    ``call`` is the number in its flow, ``flow`` that flow's id where it is a sub-flow's, and
    ``element`` that of a FOREACH, counted from 1.
    """

    component: str | None = None
    endpoint: str | None = None
    call: int | None = None
    flow: str | None = None
    element: int | None = None
    undo: bool | None = None


class Mock(msgspec.Struct, frozen=True):
    """What a request is answered with, after ``delay_ms``."""

    on: Selector = Selector()
    status: int = 200
    body: Said = Said()
    headers: tuple[tuple[str, str], ...] = ()
    delay_ms: int = 0
    fault: Fault | None = None


class BalancerMock(msgspec.Struct, frozen=True):
    """What the balancer says: ``node`` is None for "here"."""

    node: str | None = None
    status: int = 200
    delay_ms: int = 0
    fault: Fault | None = None


class PeerMock(msgspec.Struct, frozen=True):
    """What a node answers to an offer; a 2xx comes with a receipt, unless it is an original."""

    node: str | None = None
    status: int = 202
    receipt: bool = True
    delay_ms: int = 0
    fault: Fault | None = None


class ExpectedCall(msgspec.Struct, frozen=True):
    """One request that is expected. What is not said may be anything."""

    on: Selector = Selector()
    method: str | None = None
    body: Said = Said()
    headers: tuple[tuple[str, str], ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    line: int = 0


class ExpectedMessage(msgspec.Struct, frozen=True):
    """One message that is expected to be published."""

    topic: str
    body: Said = Said()
    line: int = 0


class Expected(msgspec.Struct, frozen=True):
    """How it should end. What is None or unset may be anything.

    ``results`` are by the number of their call; ``skipped`` are the calls that are not made.
    ``took_ms`` is from the acceptance to the end.
    """

    state: State = State.SUCCEEDED
    reason: str | None = None
    node: str | None = None
    reply: Any = UNSET
    results: tuple[tuple[int, Any], ...] = ()
    skipped: tuple[int, ...] = ()
    calls: tuple[ExpectedCall, ...] | None = None
    published: tuple[ExpectedMessage, ...] | None = None
    took_ms: int | None = None


class Case(msgspec.Struct, frozen=True):
    """One test of one flow. ``payload`` is JSON text; ``line`` is where the case begins.

    ``start_ms`` is the wall time at which the trigger comes. The run is watched for
    ``watched_ms`` of virtual time at most.
    """

    name: str
    flow: str
    payload: bytes = b"null"
    key: str | None = None
    placed: bool = False
    deadline_ms: int | None = None
    start_ms: int = START_MS
    watched_ms: int = WATCHED_MS
    broker_down: bool = False
    replies: tuple[Mock, ...] = ()
    balancer: BalancerMock = BalancerMock()
    peers: tuple[PeerMock, ...] = ()
    expected: Expected = Expected()
    line: int = 0
