"""Counts the last hand-offs of this node to other nodes, from the journals of its state folder."""

from __future__ import annotations

import msgspec

from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.domain.state import State

LISTED = 1_000  # the newest hand-offs that are counted


class HandOffs(msgspec.Struct):
    """Hand-offs to one node: the number of the last ones, and the time when the newest ended.

    ``in_doubt`` counts the runs that were offered to the node, and whose answer is not known.
    """

    sent: int = 0
    last_ms: int | None = None
    in_doubt: int = 0


NO_HAND_OFFS = HandOffs()


def hand_offs_by_node(history: SqliteHistory) -> tuple[dict[str, HandOffs], list[str]]:
    """Count the newest hand-offs, by the id of the node.

    Also returns texts about damage, because of which hand-offs are missing. Raises JournalError.
    """
    by_node: dict[str, HandOffs] = {}
    sent = history.page(state=State.HANDED_OFF, limit=LISTED)
    for run in sent.runs:
        counts = by_node.setdefault(run.node or "", HandOffs())
        counts.sent += 1
        counts.last_ms = max(counts.last_ms or 0, run.settled_ms or run.accepted_ms)
    for run in history.runs(state=State.OFFERED, limit=LISTED):
        by_node.setdefault(run.node or "", HandOffs()).in_doubt += 1
    return by_node, sent.unreadable
