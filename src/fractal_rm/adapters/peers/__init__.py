"""Hands runs off to other nodes over HTTP: the sender's side of `domain.handoff`.

An offer is a POST to the trigger endpoint of the other node, in the form that the original Runtime
Manager uses. The JSON of an offer has additional keys, which the original ignores.
"""

from __future__ import annotations

import msgspec

from fractal_rm.config.model import Node
from fractal_rm.domain.call import HttpCaller
from fractal_rm.domain.call_errors import CallFailed
from fractal_rm.domain.handoff import (
    CODE_PREFIX,
    NoAnswer,
    Offer,
    OfferAnswer,
    OfferRefused,
    is_node_of_this_program,
    offer_message,
    read_receipt,
)
from fractal_rm.domain.outcome import response_details
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as


class _Problem(msgspec.Struct):
    """Problem details (RFC 9457)."""

    type: str = ""


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
        reason = f"node {node.id} answered {reply.status}{response_details(reply)}"
        return OfferRefused(reason, reply.status, _code_in(reply.body))

    async def recognize(self, node: Node) -> bool | NoAnswer:
        """Send a POST with an empty body, and examine the answer; see `Peers.recognize`."""
        try:
            reply = await self._caller.call(node.offer, b"")
        except CallFailed as error:
            return NoAnswer(str(error), error.sent)
        is_node = is_node_of_this_program(reply.status, _code_in(reply.body))
        if is_node is None:
            return NoAnswer(
                f"node {node.id} answered {reply.status}{response_details(reply)}", sent=True
            )
        return is_node


def _code_in(body: bytes) -> str | None:
    """The code of the refusal, if a node with this program has sent it; otherwise None."""
    try:
        kind = read_json_as(body, _Problem).type
    except (Malformed, msgspec.ValidationError):
        return None
    return kind.removeprefix(CODE_PREFIX) if kind.startswith(CODE_PREFIX) else None
