"""Components, peers and a balancer without a network, told apart by who they are.

Two components of a configuration may share an address, so a call is known by the component and the
endpoint that its route was made for, and by the run and the step that its key names.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from types import MappingProxyType
from typing import Union
from urllib.parse import parse_qsl, urlsplit

import msgspec

from fractal_rm.config.model import Component, Config, Endpoint, Node
from fractal_rm.domain.call import Reply, Route
from fractal_rm.domain.call_errors import BadReply, CallTimedOut, ConnectFailed

_KEY = re.compile(r"(?P<run>[^:]+):(?P<undo>undo\.)?(?P<number>\d+)(?:\.(?P<element>\d+))?")


class Balancer(msgspec.Struct, frozen=True):
    """The target of the question where a run goes."""


class Peer(msgspec.Struct, frozen=True):
    """The target of a hand-off: the node with this id."""

    node: str


class Named(msgspec.Struct, frozen=True):
    """The target of a call: an endpoint of a component, by their names in components.conf."""

    component: str
    endpoint: str

    def __str__(self) -> str:
        return f"{self.component} {self.endpoint}"


Target = Union[Named, Peer, Balancer]


class MarkedRoute(Route, frozen=True, eq=False):
    """A route that knows for whom it was made."""

    to: Target = Balancer()


class Request(msgspec.Struct, frozen=True):
    """One request as it arrives. Header names are in lower case.

    ``run`` and ``number`` are those of its step, ``element`` that of a FOREACH, counted from 1.
    All are empty for a balancer or a peer. ``at_s`` is the loop's time.
    """

    to: Target
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
        """The parameters of its address."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


class Refuse(msgspec.Struct, frozen=True):
    """No connection can be made."""


class Break(msgspec.Struct, frozen=True):
    """The connection ends in the middle of the answer."""


class Silence(msgspec.Struct, frozen=True):
    """The request is taken, and no answer comes."""


class Answer(msgspec.Struct, frozen=True):
    """What happens to a request, after ``delay_s``."""

    does: Reply | Refuse | Break | Silence
    delay_s: float = 0.0


class SimulatedCaller:
    """Port `Caller`. ``answer`` decides about each request; limits of time are kept to."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self._answer = answer
        self.requests: list[Request] = []

    async def call(
        self,
        route: Route,
        body: bytes | None = None,
        headers: bytes = b"",
        timeout_s: float | None = None,
    ) -> Reply:
        """Answer a call; see the port."""
        request = _request(route, body, headers)
        self.requests.append(request)
        answer = self._answer(request)
        limit_s = route.timeout_s if timeout_s is None else min(timeout_s, route.timeout_s)
        if isinstance(answer.does, Silence) or answer.delay_s > limit_s:
            await asyncio.sleep(max(0.0, limit_s))
            raise CallTimedOut("no answer within the time limit", sent=True)
        await asyncio.sleep(answer.delay_s)
        if isinstance(answer.does, Refuse):
            raise ConnectFailed(f"{route.origin}: connection refused")
        if isinstance(answer.does, Break):
            raise BadReply("the connection was closed before the answer was whole")
        return answer.does

    async def close(self) -> None:
        """There is nothing to close."""


def _request(route: Route, body: bytes | None, headers: bytes) -> Request:
    lines = (route.head + headers).decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(": ") for line in lines if line)
    named = {name.lower(): value for name, _, value in pairs}
    key = _KEY.fullmatch(named.get("idempotency-key", ""))
    request = Request(
        to=route.to if isinstance(route, MarkedRoute) else Balancer(),
        method=route.method,
        target=route.target,
        headers=named,
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


# --- the configuration, with its routes marked ------------------------------------------------


def marked(config: Config) -> Config:
    """The same configuration, whose routes know for whom they are."""
    components = {name: _component(each) for name, each in config.components.items()}
    nodes = {node_id: _node(each) for node_id, each in config.nodes.items()}
    return msgspec.structs.replace(
        config,
        components=MappingProxyType(components),
        nodes=MappingProxyType(nodes),
        balancer=None if config.balancer is None else _mark(config.balancer, Balancer()),
    )


def _component(component: Component) -> Component:
    endpoints = {
        name: Endpoint(
            name,
            _mark(endpoint.get, Named(component.name, name)),
            _mark(endpoint.post, Named(component.name, name)),
        )
        for name, endpoint in component.endpoints.items()
    }
    return msgspec.structs.replace(component, endpoints=MappingProxyType(endpoints))


def _node(node: Node) -> Node:
    to = Peer(node.id)
    return msgspec.structs.replace(
        node, offer=_mark(node.offer, to), offer_once=_mark(node.offer_once, to)
    )


def _mark(route: Route, to: Target) -> Route:
    fields = {name: getattr(route, name) for name in route.__struct_fields__}
    return MarkedRoute(**fields, to=to)
