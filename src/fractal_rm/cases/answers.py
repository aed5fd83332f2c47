"""Which mocked reply answers a request.

Of the replies that fit, those that say most go first: one with a ``call`` before one with a
``to``, and that before any other. Of these the first that has not been used answers; where all
have been, the last one answers again.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import UNSET

from fractal_rm.cases.model import BalancerMock, Case, Fault, Mock, PeerMock, Said, Selector
from fractal_rm.config.model import Config
from fractal_rm.domain.call import Reply
from fractal_rm.domain.result import in_charset
from fractal_rm.simulation.components import (
    Answer,
    Balancer,
    Break,
    Named,
    Peer,
    Refuse,
    Request,
    Silence,
)

_FAULTS = {Fault.REFUSED: Refuse(), Fault.TIMEOUT: Silence(), Fault.BROKEN: Break()}


class Called(msgspec.Struct, frozen=True):
    """A request to a component, and the flow whose step made it."""

    request: Request
    flow: str
    to: Named


class Answers:
    """What the world of one case answers. ``flow_of`` says of which flow a run is.

    ``calls`` are the requests to components, in order; ``unanswered`` those that no reply fits:
    their connection is refused.
    """

    def __init__(self, case: Case) -> None:
        self._case = case
        self._used: set[int] = set()
        self._offers = 0
        self.flow_of: dict[str, str] = {}
        self.calls: list[Called] = []
        self.unanswered: list[Called] = []

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        if isinstance(request.to, Balancer):
            return _of_balancer(self._case.balancer)
        if isinstance(request.to, Peer):
            return self._of_peer(request, request.to)
        called = Called(request, self.flow_of.get(request.run, self._case.flow), request.to)
        self.calls.append(called)
        mock = self._chosen(called)
        if mock is None:
            self.unanswered.append(called)
            return Answer(Refuse())
        return _of_component(mock)

    def _chosen(self, called: Called) -> Mock | None:
        replies = self._case.replies
        fitting = [n for n, mock in enumerate(replies) if fits(mock.on, called, self._case.flow)]
        if not fitting:
            return None
        most = max(_said(replies[n].on) for n in fitting)
        fitting = [n for n in fitting if _said(replies[n].on) == most]
        chosen = next((n for n in fitting if n not in self._used), fitting[-1])
        self._used.add(chosen)
        return replies[chosen]

    def known(self, config: Config) -> Iterator[str]:
        """The addresses of nodes that give a receipt in the end: they have given some before."""
        for node in config.nodes.values():
            last = [PeerMock(), *self._peers(node.id)][-1]
            if last.receipt and last.fault is None and last.status < 300:
                yield node.address

    def _peers(self, node: str | None) -> list[PeerMock]:
        return [mock for mock in self._case.peers if mock.node in (None, node)]

    def _of_peer(self, request: Request, peer: Peer) -> Answer:
        fitting = self._peers(peer.node)
        mock = fitting[min(self._offers, len(fitting) - 1)] if fitting else PeerMock()
        self._offers += 1
        if mock.fault is not None:
            return Answer(_FAULTS[mock.fault], mock.delay_ms / 1000)
        return Answer(Reply(mock.status, b"", _receipt(mock, request)), mock.delay_ms / 1000)


def fits(on: Selector, called: Called, flow: str) -> bool:
    """Whether a selector means this request; ``flow`` is the case's own."""
    request = called.request
    if on.call is not None and (request.number, called.flow) != (on.call, on.flow or flow):
        return False
    if on.flow not in (None, called.flow) or on.element not in (None, request.element):
        return False
    # The undo of a call is not meant by the call's number, unless it is said.
    if request.undo != (on.undo or False) and (on.undo is not None or on.call is not None):
        return False
    return on.component in (None, called.to.component) and on.endpoint in (
        None,
        called.to.endpoint,
    )


def _said(on: Selector) -> list[bool]:
    """What a selector says, the most telling first."""
    told = (on.call, on.element, on.endpoint, on.component, on.flow, on.undo)
    return [each is not None for each in told]


def _of_component(mock: Mock) -> Answer:
    if mock.fault is not None:
        return Answer(_FAULTS[mock.fault], mock.delay_ms / 1000)
    head = "".join(f"{name}: {value}\r\n" for name, value in mock.headers).encode("latin-1")
    return Answer(Reply(mock.status, head, _body(mock.body, head)), mock.delay_ms / 1000)


def _body(said: Said, head: bytes) -> bytes:
    """A text in the charset that the headers name; in UTF-8 where that does not have it."""
    if said.text is not UNSET:
        try:
            return in_charset(said.text, head)
        except UnicodeEncodeError:
            pass
    return said.as_bytes()


def _of_balancer(mock: BalancerMock) -> Answer:
    if mock.fault is not None:
        return Answer(_FAULTS[mock.fault], mock.delay_ms / 1000)
    body = msgspec.json.encode({"id_node": mock.node})
    return Answer(Reply(mock.status, b"", body), mock.delay_ms / 1000)


def _receipt(mock: PeerMock, request: Request) -> bytes:
    """What a peer of ours says: which run it holds, under which offer."""
    if not mock.receipt or mock.status >= 300:
        return b"{}"
    offer = msgspec.json.decode(request.body or b"{}", type=dict[str, msgspec.Raw])
    return msgspec.json.encode({"run": offer["run"], "epoch": offer["epoch"]})
