"""What the balancer has done lately, as runs have recorded it (`Placed`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.conditions import Condition
from fractal_rm.domain.facts import Placed
from fractal_rm.domain.hand_offs_seen import not_taken
from fractal_rm.domain.plain_name import plain_name
from fractal_rm.domain.story.words import count, duration

_ASKED = frozenset({Cause.BALANCER, Cause.BALANCER_FAILED, Cause.UNKNOWN_NODE})


def balancer_condition(
    *,
    configured: bool,
    placements: Iterable[Sequence[tuple[int, Placed]]],
    own_id: str | None,
    within: str,
) -> Condition:
    """The condition of the balancer.

    ``placements`` are those of the newest runs, the newest run first; each with its time in
    milliseconds since 1970. ``within`` says of which time they are: ``in the last 15 minutes``.
    """
    if not configured:
        return Condition("balancer", "quiet", "none is configured: every run is executed here")
    asked = [each for each in placements if each and each[0][1].cause in _ASKED]
    if not asked:
        return Condition("balancer", "quiet", f"no run that was read {within} asked it")
    answers = f"{count(len(asked), 'answer')} {within}"
    for cause in (Cause.BALANCER_FAILED, Cause.UNKNOWN_NODE):
        bad = [each[0][1].reason for each in asked if each[0][1].cause is cause]
        if bad:
            reason = bad[0].removeprefix("the balancer failed: ")
            text = f"{len(bad)} of {answers}: {reason}"
            return Condition("balancer", "fail", text, page="nodes")
    back = not_taken(asked)
    if back:
        nodes = ", ".join(dict.fromkeys(plain_name(each.node) for each in back))
        text = f"it names node {nodes}, which did not take {count(len(back), 'run')} of {answers}"
        cost = duration(median(each.delay_ms for each in back))
        return Condition(
            "balancer", "fail", f"{text}; each was delayed by about {cost}: {back[0].reason}",
            page="nodes",
            advice=f"Start node {nodes}, or let the balancer name other nodes.",
        )  # fmt: skip
    return Condition("balancer", "ok", f"{answers}: {_chosen(asked, own_id)}", page="nodes")


def _chosen(asked: Iterable[Sequence[tuple[int, Placed]]], own_id: str | None) -> str:
    """Which nodes were chosen, the most frequent first: ``2 for node 2, 1 for this node``."""
    nodes = Counter(each[0][1].node for each in asked)
    names = [
        (number, "this node" if node in (None, own_id) else f"node {plain_name(node or '')}")
        for node, number in nodes.most_common()
    ]
    return ", ".join(f"{number:,} for {name}" for number, name in names)
