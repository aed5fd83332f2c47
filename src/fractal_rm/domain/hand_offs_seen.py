"""What became of runs that were offered to other nodes, as the runs have recorded it (`Placed`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Placed

# Why a run did not go to the node for which it was meant.
NOT_TAKEN = frozenset({
    Cause.PEER_UNREACHABLE, Cause.PEER_SILENT, Cause.OFFER_REFUSED, Cause.UNFIT_PEER,
    Cause.PEER_GONE, Cause.PEER_REPLACED,
})  # fmt: skip


class NotTaken(msgspec.Struct, frozen=True):
    """A node did not take a run, at ``at_ms`` (milliseconds since 1970), because of ``reason``.

    ``delay_ms`` is the time from the choice of this node to the next choice.
    """

    node: str
    at_ms: int
    reason: str
    delay_ms: int = 0


def not_taken(placements: Iterable[Sequence[tuple[int, Placed]]]) -> list[NotTaken]:
    """Which nodes did not take runs. ``placements`` are those of several runs, with their times."""
    return [
        NotTaken(before.node, at_ms, after.reason, max(0, at_ms - before_ms))
        for of_run in placements
        for (before_ms, before), (at_ms, after) in pairwise(of_run)
        if after.cause in NOT_TAKEN and before.node is not None
    ]
