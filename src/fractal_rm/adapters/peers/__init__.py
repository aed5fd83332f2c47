"""Hand-offs to other Runtime Managers over HTTP, as the originals do it, with a receipt.

The body is the original's, with three more keys that originals ignore: ``run``, ``epoch`` and
``sender``. A peer of ours answers with ``run`` and ``epoch``: it holds the run durably. Any other
2xx is a plain peer's, which says only that nothing went wrong there.
"""

from __future__ import annotations

import msgspec

from fractal_rm.config.model import Node
from fractal_rm.domain.call import Caller
from fractal_rm.domain.errors import OfferRefused
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Receipt

_MAYBE_LATER = frozenset({429, 503})


class _Offer(msgspec.Struct):
    payload: msgspec.Raw
    id_flow: str
    run: str
    epoch: int
    sender: str
    is_load_balancing: bool = True


class _Answer(msgspec.Struct):
    run: str | None = None
    epoch: int | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Answer)


class HttpPeers:
    """Port `Peers`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def offer(self, node: Node, run: Run, sender: str) -> Receipt | None:
        """Offer a run once. Raises OfferRefused, CallFailed."""
        body = _encoder.encode(_Offer(run.payload, run.flow.id, run.id, run.epoch, sender))
        reply = await self._caller.call(node.offer, body)
        if 200 <= reply.status < 300:
            return _receipt(reply.body, run)
        said = " ".join(reply.body[:200].decode("utf-8", "replace").split())
        why = f"node {node.id} answered {reply.status}" + (f": {said}" if said else "")
        raise OfferRefused(why, final=reply.status not in _MAYBE_LATER)


def _receipt(body: bytes, run: Run) -> Receipt | None:
    try:
        answer = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if answer.run != run.id or answer.epoch != run.epoch:
        return None
    return Receipt(run.id, run.epoch)
