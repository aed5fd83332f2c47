"""What the balancer has done lately, as runs have recorded it (`Placed`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.conditions import Condition
from fractal_rm.domain.facts import Placed
from fractal_rm.domain.hand_offs_seen import not_taken
from fractal_rm.domain.plain_name import plain_name
from fractal_rm.domain.story.words import count

_ASKED = frozenset({Cause.BALANCER, Cause.BALANCER_FAILED, Cause.UNKNOWN_NODE})


def balancer_condition(
    *, configured: bool, placements: Iterable[Sequence[tuple[int, Placed]]], own_id: str | None
) -> Condition:
    """The condition of the balancer.

    ``placements`` are those of the newest runs, the newest run first; each with its time in
    milliseconds since 1970.
    """
    if not configured:
        return Condition("balancer", "quiet", "none is configured: every run is executed here")
    asked = [each for each in placements if each and each[0][1].cause in _ASKED]
    if not asked:
        return Condition("balancer", "quiet", "it was not asked about the newest runs")
    of_last = f"of its last {count(len(asked), 'answer')}"
    for cause in (Cause.BALANCER_FAILED, Cause.UNKNOWN_NODE):
        bad = [each[0][1].reason for each in asked if each[0][1].cause is cause]
        if bad:
            reason = bad[0].removeprefix("the balancer failed: ")
            return Condition("balancer", "fail", f"{len(bad)} {of_last}: {reason}")
    back = not_taken(asked)
    if back:
        nodes = ", ".join(dict.fromkeys(plain_name(each.node) for each in back))
        text = f"it names node {nodes}, which did not take {count(len(back), 'run')}"
        return Condition("balancer", "fail", f"{text} ({of_last}): {back[0].reason}")
    return Condition("balancer", "ok", f"{of_last}: {_chosen(asked, own_id)}"[3:])


def _chosen(asked: Iterable[Sequence[tuple[int, Placed]]], own_id: str | None) -> str:
    """Which nodes were chosen, the most frequent first: ``2 for node 2, 1 for this node``."""
    nodes = Counter(each[0][1].node for each in asked)
    names = [
        (number, "this node" if node in (None, own_id) else f"node {plain_name(node or '')}")
        for node, number in nodes.most_common()
    ]
    return ", ".join(f"{number:,} for {name}" for number, name in names)
