"""The Load Balancer over HTTP."""

from __future__ import annotations

from codecs import BOM_UTF8

import msgspec

from fractal_rm.domain.call import Caller, Route
from fractal_rm.domain.errors import BadReply
from fractal_rm.domain.outcome import said_with


class _Answer(msgspec.Struct):
    """``id_node``: a number or a text (2 and "2" are the same node), or null for here."""

    id_node: int | str | None


_decoder = msgspec.json.Decoder(_Answer)


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
            answer = _decoder.decode(reply.body.removeprefix(BOM_UTF8)).id_node
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            said = " ".join(reply.body[:60].decode("utf-8", "replace").split())
            raise BadReply(f"its answer is not {{'id_node': …}} ({error}): {said}") from error
        return None if answer is None else str(answer)
