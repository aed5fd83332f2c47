"""The model of a case: a trigger, mocked replies, and the expected run."""

from __future__ import annotations

from binascii import b2a_base64
from enum import Enum
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.domain.state import State

DEFAULT_WATCH_MS = 7 * 24 * 3_600_000
DEFAULT_START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


class Fault(str, Enum):
    """A fault of the connection, simulated instead of a reply."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    BROKEN = "broken"


class Body(msgspec.Struct, frozen=True):
    """A body: a text, bytes, or a JSON value. If no field is set, any body matches."""

    text: str | UnsetType = UNSET
    json: Any = UNSET
    data: bytes | UnsetType = UNSET

    @property
    def is_any(self) -> bool:
        """Whether no field is set, so that any body matches."""
        return self.text is UNSET and self.json is UNSET and self.data is UNSET

    def as_bytes(self) -> bytes:
        """The bytes to send. A JSON value is encoded without spaces."""
        if self.data is not UNSET:
            return self.data
        if self.text is not UNSET:
            return self.text.encode()
        return b"" if self.json is UNSET else msgspec.json.encode(self.json)


def base64_text(data: bytes) -> str:
    """Encode bytes in base64 (RFC 4648, 4)."""
    return b2a_base64(data, newline=False).decode()


def body_from_bytes(body: bytes) -> Body:
    """A body for the given bytes: with a text if they are UTF-8, and with bytes otherwise."""
    try:
        return Body(body.decode())
    except UnicodeDecodeError:
        return Body(data=body)


class Selector(msgspec.Struct, frozen=True):
    """Selects the requests that match all fields that are set.

    ``call``: the number of the call in its flow. ``flow``: the id of that flow, if the flow was
    started by RUN. ``element``: the element of a FOREACH, counted from 1. ``undo``: whether the
    request is an undo.
    """

    component: str | None = None
    endpoint: str | None = None
    call: int | None = None
    flow: str | None = None
    element: int | None = None
    undo: bool | None = None


class ReplyMock(msgspec.Struct, frozen=True):
    """The reply to the selected requests. It is sent after ``delay_ms``."""

    selector: Selector = Selector()
    status: int = 200
    body: Body = Body()
    headers: tuple[tuple[str, str], ...] = ()
    delay_ms: int = 0
    fault: Fault | None = None


class BalancerMock(msgspec.Struct, frozen=True):
    """The reply of the balancer. ``node``: the chosen node; None means the node that asks."""

    node: str | None = None
    status: int = 200
    delay_ms: int = 0
    fault: Fault | None = None


class PeerMock(msgspec.Struct, frozen=True):
    """The reply of a node to an offer of a run.

    ``receipt``: whether the reply contains a receipt, if its status is 2xx.
    """

    node: str | None = None
    status: int = 202
    receipt: bool = True
    delay_ms: int = 0
    fault: Fault | None = None


class ExpectedCall(msgspec.Struct, frozen=True):
    """One expected request. A field that is not set accepts any value."""

    selector: Selector = Selector()
    method: str | None = None
    body: Body = Body()
    headers: tuple[tuple[str, str], ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    line: int = 0


class ExpectedMessage(msgspec.Struct, frozen=True):
    """One message that PUBLISH is expected to send."""

    topic: str
    body: Body = Body()
    line: int = 0


class Expected(msgspec.Struct, frozen=True):
    """The expectations of a case. A field that is None or UNSET accepts any value.

    ``results`` are pairs: the number of a call, and its result. ``skipped`` has the numbers of the
    skipped calls. ``took_ms`` is the time from the acceptance of the run to its end.
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
    """One test of one flow. ``line`` is the line of the file at which the case begins.

    ``payload`` is the JSON text of the trigger's payload, and ``key`` its idempotency key.
    ``placed``: whether another node sent the trigger, so that the balancer is not asked.
    ``start_ms`` is the wall time at which the trigger arrives. The run is watched for at most
    ``watched_ms`` of virtual time.
    """

    name: str
    flow: str
    payload: bytes = b"null"
    key: str | None = None
    placed: bool = False
    deadline_ms: int | None = None
    start_ms: int = DEFAULT_START_MS
    watched_ms: int = DEFAULT_WATCH_MS
    broker_down: bool = False
    replies: tuple[ReplyMock, ...] = ()
    balancer: BalancerMock = BalancerMock()
    peers: tuple[PeerMock, ...] = ()
    expected: Expected = Expected()
    line: int = 0
