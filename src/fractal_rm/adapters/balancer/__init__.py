"""The Load Balancer over HTTP."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from fractal_rm.domain.call import Caller, Route
from fractal_rm.domain.call_errors import BadReply
from fractal_rm.domain.outcome import said_with
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as

KNOWN_BYTES = 200  # answers up to this length are remembered


class _Answer(msgspec.Struct):
    """``id_node``: a number or a text (2 and "2" are the same node), or null for here."""

    id_node: int | str | None


class HttpBalancer:
    """Port `Balancer`. The reply is read as JSON whatever its label: originals say text/html."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def ask(self, route: Route) -> str | None:
        """Ask once, within the route's limits. Raises CallFailed."""
        reply = await self._caller.call(route)
        if not 200 <= reply.status < 300:
            raise BadReply(f"status {reply.status}{said_with(reply)}")
        try:
            known = len(reply.body) <= KNOWN_BYTES
            return _known_node_of(reply.body) if known else _node_of(reply.body)
        except (Malformed, msgspec.ValidationError) as error:
            why = f"its answer is not {{'id_node': …}} ({error}){said_with(reply)}"
            raise BadReply(why) from error


def _node_of(body: bytes) -> str | None:
    """The id in an answer. Raises Malformed, msgspec.ValidationError."""
    answer = read_json_as(body, _Answer).id_node
    return None if answer is None else str(answer)


# A balancer gives few different answers, and one for each run.
_known_node_of = lru_cache(maxsize=64)(_node_of)
