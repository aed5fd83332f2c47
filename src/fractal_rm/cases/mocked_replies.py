"""Selects the mocked reply of a case for each request.

A request may fit the selectors of several replies. Only the replies with the most specific of these
selectors are used: one with ``call`` is more specific than one with ``to``, and one without both is
the least specific. The replies are used in the order of the file, and the last one is repeated.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from msgspec import UNSET

from fractal_rm.cases.model import BalancerMock, Body, Case, Fault, PeerMock, ReplyMock, Selector
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.result import encode_for
from fractal_rm.simulation.components import (
    ComponentEndpoint,
    ConnectionBroken,
    ConnectionRefused,
    LoadBalancer,
    NoReply,
    PeerNode,
    SimulatedReply,
    SimulatedRequest,
)

_FAULTS = {
    Fault.REFUSED: ConnectionRefused(),
    Fault.TIMEOUT: NoReply(),
    Fault.BROKEN: ConnectionBroken(),
}


class ComponentCall(msgspec.Struct, frozen=True):
    """A request to a component. ``flow`` is the id of the flow that sent the request."""

    request: SimulatedRequest
    flow: str
    to: ComponentEndpoint


class MockedReplies:
    """Answers the requests of one case. ``flow_ids`` has the flow id of each run, by run id.

    ``probes`` are the endpoints that components are asked by about lost calls. Such a question has
    the key of the call, but is not the call: only a reply without ``call`` answers it.
    ``calls`` are the requests to components, in order. ``unanswered`` are the requests for which
    the case has no reply. Their connections are refused.
    """

    def __init__(self, case: Case, probes: Collection[ComponentEndpoint] = ()) -> None:
        self._case = case
        self._probes = probes
        self._used: set[int] = set()
        self._offer_count = 0
        self.flow_ids: dict[str, str] = {}
        self.calls: list[ComponentCall] = []
        self.unanswered: list[ComponentCall] = []

    def __call__(self, request: SimulatedRequest) -> SimulatedReply:
        """Answer one request."""
        if isinstance(request.to, LoadBalancer):
            return _balancer_reply(self._case.balancer)
        if isinstance(request.to, PeerNode):
            return self._peer_reply(request, request.to)
        to = request.to
        if to in self._probes and request.method == "GET":
            request = msgspec.structs.replace(request, number=0, element=0, undo=False)
        flow = self.flow_ids.get(request.run, self._case.flow)
        component_call = ComponentCall(request, flow, to)
        self.calls.append(component_call)
        mock = self._choose(component_call)
        if mock is None:
            self.unanswered.append(component_call)
            return SimulatedReply(ConnectionRefused())
        return _component_reply(mock)

    def _choose(self, component_call: ComponentCall) -> ReplyMock | None:
        replies = self._case.replies
        fitting = [
            n
            for n, mock in enumerate(replies)
            if selects(mock.selector, component_call, self._case.flow)
        ]
        if not fitting:
            return None
        highest = max(_specificity(replies[n].selector) for n in fitting)
        fitting = [n for n in fitting if _specificity(replies[n].selector) == highest]
        index = next((n for n in fitting if n not in self._used), fitting[-1])
        self._used.add(index)
        return replies[index]

    def runs_this_program(self, node: str) -> bool:
        """Whether a node runs this program: its last mocked reply has a receipt."""
        mocks = self._peers(node)
        last = mocks[-1] if mocks else PeerMock()
        return last.receipt and last.fault is None and last.status < 300

    def _peers(self, node: str | None) -> list[PeerMock]:
        return [mock for mock in self._case.peers if mock.node in (None, node)]

    def _peer_reply(self, request: SimulatedRequest, peer: PeerNode) -> SimulatedReply:
        fitting = self._peers(peer.node)
        mock = fitting[min(self._offer_count, len(fitting) - 1)] if fitting else PeerMock()
        self._offer_count += 1
        if mock.fault is not None:
            return SimulatedReply(_FAULTS[mock.fault], mock.delay_ms / 1000)
        return SimulatedReply(
            HttpResponse(mock.status, b"", _receipt(mock, request)), mock.delay_ms / 1000
        )


def selects(selector: Selector, component_call: ComponentCall, flow: str) -> bool:
    """Whether a selector selects a request. ``flow`` is the id of the tested flow."""
    request, to = component_call.request, component_call.to
    selected_flow, selected_undo = selector.flow, selector.undo
    if selector.call is not None:
        selected_flow = selector.flow or flow
        selected_undo = selector.undo or False  # the undo of a call is not selected by default
    return (
        _accepts(selector.call, request.number)
        and _accepts(selected_flow, component_call.flow)
        and _accepts(selector.element, request.element)
        and _accepts(selected_undo, request.undo)
        and _accepts(selector.component, to.component)
        and _accepts(selector.endpoint, to.endpoint)
    )


def _accepts(selected: object, actual: object) -> bool:
    """Whether a field of a selector accepts a value. A field that is None accepts any value."""
    return selected is None or selected == actual


def _specificity(selector: Selector) -> list[bool]:
    """For each field, whether it is set. The most specific field is the first.

    Compare the lists of two selectors: the more specific selector has the greater list.
    """
    fields = (
        selector.call,
        selector.element,
        selector.endpoint,
        selector.component,
        selector.flow,
        selector.undo,
    )
    return [each is not None for each in fields]


def _component_reply(mock: ReplyMock) -> SimulatedReply:
    if mock.fault is not None:
        return SimulatedReply(_FAULTS[mock.fault], mock.delay_ms / 1000)
    head = "".join(f"{name}: {value}\r\n" for name, value in mock.headers).encode("latin-1")
    return SimulatedReply(
        HttpResponse(mock.status, head, _encoded(mock.body, head)), mock.delay_ms / 1000
    )


def _encoded(body: Body, head: bytes) -> bytes:
    """The body as bytes. A text is encoded in the charset of the headers, if possible, or UTF-8."""
    if body.text is not UNSET:
        try:
            return encode_for(body.text, head)
        except UnicodeEncodeError:
            pass
    return body.as_bytes()


def _balancer_reply(mock: BalancerMock) -> SimulatedReply:
    if mock.fault is not None:
        return SimulatedReply(_FAULTS[mock.fault], mock.delay_ms / 1000)
    body = msgspec.json.encode({"id_node": mock.node})
    return SimulatedReply(HttpResponse(mock.status, b"", body), mock.delay_ms / 1000)


def _receipt(mock: PeerMock, request: SimulatedRequest) -> bytes:
    """The body of a peer's reply: ``{}``, or a receipt with the run and the epoch of the offer."""
    if not mock.receipt or mock.status >= 300:
        return b"{}"
    offer = msgspec.json.decode(request.body or b"{}", type=dict[str, msgspec.Raw])
    return msgspec.json.encode({"run": offer["run"], "epoch": offer["epoch"]})
