"""Simulates components, peers and a balancer without a network.

The address of a request does not identify its receiver, because two components may have the same
address. So the names in the route of the request are used (`domain.call.Route`). The run and the
step are taken from its Idempotency-Key.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Union
from urllib.parse import parse_qsl, urlsplit

import msgspec

from fractal_rm.domain.call import HttpResponse, Route
from fractal_rm.domain.call_errors import BadReply, CallTimedOut, ConnectFailed

_KEY = re.compile(r"(?P<run>[^:]+):(?P<undo>undo\.)?(?P<number>\d+)(?:\.(?P<element>\d+))?")


class LoadBalancer(msgspec.Struct, frozen=True):
    """The receiver of a request is the balancer, which chooses a node for a run."""


class PeerNode(msgspec.Struct, frozen=True):
    """The receiver of a request is the peer with the id ``node``, which is offered a run."""

    node: str


class ComponentEndpoint(msgspec.Struct, frozen=True):
    """The receiver of a request is an endpoint of a component, as named in components.conf."""

    component: str
    endpoint: str

    def __str__(self) -> str:
        return f"{self.component} {self.endpoint}"


Callee = Union[ComponentEndpoint, PeerNode, LoadBalancer]


class SimulatedRequest(msgspec.Struct, frozen=True):
    """One request to a simulated server. Header names are in lower case.

    ``run`` is the id of the run, and ``number`` the number of the call in the flow. ``element``
    counts the elements of a FOREACH from 1; it is 0 without FOREACH. In a request to a balancer or
    a peer, ``run`` is empty, and both numbers are 0. ``at_s`` is the time of the event loop.
    """

    to: Callee
    method: str
    target: str
    headers: dict[str, str]
    body: bytes | None
    at_s: float
    run: str = ""
    number: int = 0
    element: int = 0
    undo: bool = False

    @property
    def query(self) -> dict[str, str]:
        """The query parameters of the target."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


class ConnectionRefused(msgspec.Struct, frozen=True):
    """The fault that no connection can be made."""


class ConnectionBroken(msgspec.Struct, frozen=True):
    """The fault that the connection is closed in the middle of the reply."""


class NoReply(msgspec.Struct, frozen=True):
    """The fault that the request is read, but no reply is sent."""


class SimulatedReply(msgspec.Struct, frozen=True):
    """The reply or the fault that a request gets after ``delay_s``."""

    result: HttpResponse | ConnectionRefused | ConnectionBroken | NoReply
    delay_s: float = 0.0


class SimulatedCaller:
    """Port `HttpCaller`. ``reply_to`` returns the reply to a request, or a fault.

    A request times out as a real request would.
    """

    def __init__(self, reply_to: Callable[[SimulatedRequest], SimulatedReply]) -> None:
        self._reply_to = reply_to
        self.requests: list[SimulatedRequest] = []

    async def call(
        self,
        route: Route,
        body: bytes | None = None,
        headers: bytes = b"",
        timeout_s: float | None = None,
    ) -> HttpResponse:
        """Make an HTTP call, as the port `HttpCaller` describes it."""
        request = _request(route, body, headers)
        self.requests.append(request)
        reply = self._reply_to(request)
        result = reply.result
        limit_s = route.timeout_s if timeout_s is None else min(timeout_s, route.timeout_s)
        if isinstance(result, NoReply) or reply.delay_s > limit_s:
            await asyncio.sleep(max(0.0, limit_s))
            raise CallTimedOut("no answer within the time limit", sent=True)
        await asyncio.sleep(reply.delay_s)
        if isinstance(result, ConnectionRefused):
            raise ConnectFailed(f"{route.origin}: connection refused")
        if isinstance(result, ConnectionBroken):
            raise BadReply("the connection was closed before the answer was complete")
        return result

    async def close(self) -> None:
        """Do nothing: there are no connections."""


def _request(route: Route, body: bytes | None, headers: bytes) -> SimulatedRequest:
    lines = (route.head + headers).decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(": ") for line in lines if line)
    by_name = {name.lower(): value for name, _, value in pairs}
    key = _KEY.fullmatch(by_name.get("idempotency-key", ""))
    request = SimulatedRequest(
        to=_callee(route),
        method=route.method,
        target=route.target,
        headers=by_name,
        body=body,
        at_s=asyncio.get_running_loop().time(),
    )
    if key is None:
        return request
    return msgspec.structs.replace(
        request,
        run=key["run"],
        number=int(key["number"]),
        element=int(key["element"] or 0),
        undo=key["undo"] is not None,
    )


def _callee(route: Route) -> Callee:
    if route.component is not None and route.endpoint is not None:
        return ComponentEndpoint(route.component, route.endpoint)
    return LoadBalancer() if route.node is None else PeerNode(route.node)
