"""Asks the Load Balancer over HTTP on which node to execute a run."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from fractal_rm.config.model import Config
from fractal_rm.domain.call import HttpCaller, Route
from fractal_rm.domain.call_errors import BadReply
from fractal_rm.domain.outcome import response_details
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as

CACHED_BYTES = 200  # the content of replies up to this length is cached


class _BalancerReply(msgspec.Struct):
    """The JSON of a reply. ``id_node`` is a node id, or null for this node.

    The number 2 and the text "2" are the same id.
    """

    id_node: int | str | None


class HttpBalancer:
    """Port `Balancer`, over HTTP.

    The reply is read as JSON whatever its content type is: the original Load Balancer answers with
    text/html.
    """

    def __init__(self, caller: HttpCaller, route: Route) -> None:
        self._caller = caller
        self._route = route

    async def ask(self) -> str | None:
        """Ask once, with the limits of time and size in the route.

        Returns a node id, or None for this node.

        Raises CallFailed.
        """
        reply = await self._caller.call(self._route)
        if not 200 <= reply.status < 300:
            raise BadReply(f"status {reply.status}{response_details(reply)}")
        try:
            cached = len(reply.body) <= CACHED_BYTES
            return _cached_node_in(reply.body) if cached else _node_in(reply.body)
        except (Malformed, msgspec.ValidationError) as error:
            reason = f"its answer is not {{'id_node': …}} ({error}){response_details(reply)}"
            raise BadReply(reason) from error


def make_balancer(caller: HttpCaller, config: Config) -> HttpBalancer | None:
    """Make the balancer of a configuration; None if it has none."""
    return None if config.balancer is None else HttpBalancer(caller, config.balancer)


def _node_in(body: bytes) -> str | None:
    """The node id in a reply. Raises Malformed, msgspec.ValidationError."""
    node = read_json_as(body, _BalancerReply).id_node
    return None if node is None else str(node)


# Cached, since there is a reply for each run, but few different ones.
_cached_node_in = lru_cache(maxsize=64)(_node_in)
