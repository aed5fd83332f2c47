"""A case: the trigger, the mocked replies, and what is expected of the flow."""

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
    """Why a request gets no reply."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    BROKEN = "broken"


class Body(msgspec.Struct, frozen=True):
    """A body: a text, a JSON value in any spelling, or bytes. With none of them it is any body."""

    text: str | UnsetType = UNSET
    json: Any = UNSET
    data: bytes | UnsetType = UNSET

    @property
    def is_any(self) -> bool:
        """Whether it stands for any body."""
        return self.text is UNSET and self.json is UNSET and self.data is UNSET

    def as_bytes(self) -> bytes:
        """The bytes to send; a JSON value in one of its spellings."""
        if self.data is not UNSET:
            return self.data
        if self.text is not UNSET:
            return self.text.encode()
        return b"" if self.json is UNSET else msgspec.json.encode(self.json)


def base64_text(data: bytes) -> str:
    """Bytes as text (RFC 4648, 4)."""
    return b2a_base64(data, newline=False).decode()


def body_of(body: bytes) -> Body:
    """A body that was sent: a text, or bytes if they are not UTF-8."""
    try:
        return Body(body.decode())
    except UnicodeDecodeError:
        return Body(data=body)


class Selector(msgspec.Struct, frozen=True):
    """Which requests are meant: those that match in every field that is set.

    ``call`` is the number of the call in its flow, ``flow`` the id of that flow if it is a
    sub-flow, and ``element`` the element of a FOREACH, counted from 1.
    """

    component: str | None = None
    endpoint: str | None = None
    call: int | None = None
    flow: str | None = None
    element: int | None = None
    undo: bool | None = None


class ReplyMock(msgspec.Struct, frozen=True):
    """The reply to a request, after ``delay_ms``."""

    on: Selector = Selector()
    status: int = 200
    body: Body = Body()
    headers: tuple[tuple[str, str], ...] = ()
    delay_ms: int = 0
    fault: Fault | None = None


class BalancerMock(msgspec.Struct, frozen=True):
    """The reply of the balancer: ``node`` is None for "here"."""

    node: str | None = None
    status: int = 200
    delay_ms: int = 0
    fault: Fault | None = None


class PeerMock(msgspec.Struct, frozen=True):
    """The reply of a node to an offer. ``receipt``: whether a 2xx comes with a receipt."""

    node: str | None = None
    status: int = 202
    receipt: bool = True
    delay_ms: int = 0
    fault: Fault | None = None


class ExpectedCall(msgspec.Struct, frozen=True):
    """One request that is expected. What is not set may be anything."""

    on: Selector = Selector()
    method: str | None = None
    body: Body = Body()
    headers: tuple[tuple[str, str], ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    line: int = 0


class ExpectedMessage(msgspec.Struct, frozen=True):
    """One message that is expected to be published."""

    topic: str
    body: Body = Body()
    line: int = 0


class Expected(msgspec.Struct, frozen=True):
    """How the run should end. What is None or unset may be anything.

    ``results`` are by the number of their call; ``skipped`` are the calls that are not made.
    ``took_ms`` is the time from the acceptance to the end.
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
    replies: tuple[ReplyMock, ...] = ()
    balancer: BalancerMock = BalancerMock()
    peers: tuple[PeerMock, ...] = ()
    expected: Expected = Expected()
    line: int = 0
