"""Hand-offs to other Runtime Managers over HTTP, as the originals do it, with a receipt.

The body is the original's, with more keys that originals ignore: ``run``, ``epoch``, ``sender``,
and ``deadline_ms`` where the run has a time limit: the milliseconds left. A peer of ours answers
with ``run`` and ``epoch``: it holds the run durably. Any other 2xx is a plain peer's, which says
only that nothing went wrong there.
"""

from __future__ import annotations

from codecs import BOM_UTF8

import msgspec

from fractal_rm.config.model import Node
from fractal_rm.domain.call import Caller, Route
from fractal_rm.domain.errors import OfferRefused, OwnRun, UnknownFlow
from fractal_rm.domain.outcome import said_with
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Receipt

# What a peer of ours answers only once it knows that its journal does not hold the run.
_LOOKED = frozenset({f"urn:fractal-rm:{error.code}" for error in (UnknownFlow, OwnRun)})


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
_decoder = msgspec.json.Decoder(_Answer)
_problem_decoder = msgspec.json.Decoder(_Problem)


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


def _problem_type(body: bytes) -> str:
    try:
        return _problem_decoder.decode(body.removeprefix(BOM_UTF8)).type
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def _receipt(body: bytes, run: Run) -> Receipt | None:
    try:
        answer = _decoder.decode(body.removeprefix(BOM_UTF8))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if answer.run != run.id or answer.epoch != run.epoch:
        return None
    return Receipt(run.id, run.epoch)
