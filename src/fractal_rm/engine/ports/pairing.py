"""The port of joining nodes: what happens to a request that was sent with an invitation."""

from __future__ import annotations

from typing import Protocol

from fractal_rm.domain.pairing import PairAnswer, PairRequest


class PairingHost(Protocol):
    """Adds another node to this node, by an invitation."""

    def accept(self, secret: str, request: PairRequest) -> PairAnswer:
        """Add the node of a request, and use up the invitation. Call this in a thread.

        Raises PairingRefused. In this case, nothing has changed.
        """
        ...
