"""Hands runs off to other nodes over HTTP: the sender's side of `domain.handoff`.

An offer is a POST to the trigger endpoint of the other node, in the form that the original Runtime
Manager uses. The JSON of an offer has additional keys, which the original ignores. A GET of the
same endpoint asks the node what it is.
"""

from __future__ import annotations

from http import HTTPStatus

from fractal_rm.adapters.peers.refusal_text import refusal_text
from fractal_rm.config.model import Node
from fractal_rm.domain.call import HttpCaller
from fractal_rm.domain.call_errors import CallFailed
from fractal_rm.domain.handoff.messages import (
    NoAnswer,
    Offer,
    OfferAnswer,
    OlderNode,
    PeerKind,
    PlainPeer,
    code_in,
    offer_message,
    read_description,
    read_receipt,
    read_refusal,
)
from fractal_rm.domain.handoff.sender import is_inconclusive


class HttpPeers:
    """Port `Peers`, over HTTP."""

    def __init__(self, caller: HttpCaller) -> None:
        self._caller = caller

    async def offer(self, node: Node, offer: Offer, *, runs_this_program: bool) -> OfferAnswer:
        """Send an offer once; see `Peers.offer`."""
        route = node.offer if runs_this_program else node.offer_once
        trace = offer.traceparent
        headers = b"" if trace is None else b"traceparent: %b\r\n" % trace.encode()
        try:
            reply = await self._caller.call(route, offer_message(offer), headers)
        except CallFailed as error:
            return NoAnswer(str(error), error.sent)
        if 200 <= reply.status < 300:
            return read_receipt(reply.body, offer)
        return read_refusal(reply.body, offer, reply.status, refusal_text(node.id, reply))

    async def describe(self, node: Node) -> PeerKind:
        """Ask with a GET. A node of an older release does not know it, so send an empty POST then.

        No program executes anything for an empty POST, and only a node of this program answers it
        with an error code. See `Peers.describe`.
        """
        try:
            reply = await self._caller.call(node.describe, None)
            if reply.status == HTTPStatus.OK:
                return read_description(reply.body) or PlainPeer()
            if code_in(reply.body) is None and not is_inconclusive(reply.status):
                reply = await self._caller.call(node.offer, b"")
        except CallFailed as error:
            return NoAnswer(str(error), error.sent)
        if code_in(reply.body) is not None:
            return OlderNode()
        return (
            NoAnswer(refusal_text(node.id, reply), sent=True)
            if is_inconclusive(reply.status)
            else PlainPeer()
        )
