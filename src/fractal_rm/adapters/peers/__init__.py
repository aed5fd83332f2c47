"""Hand-offs to other Runtime Managers over HTTP, as the originals do it, with a receipt.

The body is the original's, with more keys that originals ignore: ``run``, ``epoch``, ``sender``,
and ``deadline_ms`` where the run has a time limit: the milliseconds left. A peer of ours answers
with ``run`` and ``epoch``: it holds the run durably. Any other 2xx is a plain peer's, which says
only that nothing went wrong there.
"""

from __future__ import annotations

import msgspec

from fractal_rm.config.model import Node
from fractal_rm.domain.call import Caller, Route
from fractal_rm.domain.call_errors import BadReply, OfferRefused
from fractal_rm.domain.outcome import said_with
from fractal_rm.domain.refusals import Malformed, OwnRun, UnknownFlow
from fractal_rm.domain.run import Run
from fractal_rm.domain.strict_json import read_json_as
from fractal_rm.engine.ports import Receipt

# What a peer of ours answers only once it knows that its journal does not hold the run.
_OURS = "urn:fractal-rm:"
_LOOKED = frozenset({f"{_OURS}{error.code}" for error in (UnknownFlow, OwnRun)})
# Statuses that a gateway gives of its own where the peer itself said nothing.
_TIME_LIMIT, _FIRST_FAULT = 408, 500


class _Offer(msgspec.Struct):
    payload: msgspec.Raw
    id_flow: str
    run: str
    epoch: int
    sender: str
    is_load_balancing: bool
    deadline_ms: int | msgspec.UnsetType = msgspec.UNSET


class _Answer(msgspec.Struct):
    run: str | None = None
    epoch: int | None = None


class _Problem(msgspec.Struct):
    """RFC 9457."""

    type: str = ""


_encoder = msgspec.json.Encoder()


class HttpPeers:
    """Port `Peers`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def offer(
        self, node: Node, route: Route, run: Run, sender: str, *, left_ms: int | None = None
    ) -> Receipt | None:
        """Offer a run once. Raises OfferRefused, CallFailed."""
        offer = _Offer(
            run.payload, run.flow.id, run.id, run.epoch, sender, is_load_balancing=True,
            deadline_ms=msgspec.UNSET if left_ms is None else left_ms,
        )  # fmt: skip
        trace = (
            b"" if run.traceparent is None else b"traceparent: %b\r\n" % run.traceparent.encode()
        )
        reply = await self._caller.call(route, _encoder.encode(offer), trace)
        if 200 <= reply.status < 300:
            return _receipt(reply.body, run)
        why = f"node {node.id} answered {reply.status}{said_with(reply)}"
        raise OfferRefused(why, reply.status, looked=_problem_type(reply.body) in _LOOKED)

    async def recognize(self, node: Node) -> bool:
        """Whether a node of this program answers there now; see the port.

        It is sent nothing, with a POST. Any other program executes nothing for that either, and
        only a node of this program answers with one of its own problem details.
        """
        reply = await self._caller.call(node.offer, b"")
        if _problem_type(reply.body).startswith(_OURS):
            return True
        if reply.status >= _FIRST_FAULT or reply.status == _TIME_LIMIT:
            raise BadReply(f"node {node.id} answered {reply.status}{said_with(reply)}")
        return False


def _problem_type(body: bytes) -> str:
    try:
        return read_json_as(body, _Problem).type
    except (Malformed, msgspec.ValidationError):
        return ""


def _receipt(body: bytes, run: Run) -> Receipt | None:
    try:
        answer = read_json_as(body, _Answer)
    except (Malformed, msgspec.ValidationError):
        return None
    if answer.run != run.id or answer.epoch != run.epoch:
        return None
    return Receipt(run.id, run.epoch)
