"""The conditions of a node in words: what is well, and what is not.

They are made from the checks of its processes (`NodeStatus.checks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from fractal_rm.domain.health import CHECK_NAMES, Health
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.plain_name import plain_name
from fractal_rm.domain.story.words import count, size

LEAST_FREE_BYTES = 256 * 1024 * 1024
LEAST_FREE_SHARE = 0.05
# The checks with which conditions begin, in this order. The others follow.
_FIRST = ("mqtt", "rest", "journal")
# These checks are for information, and are always well: another text is a warning.
_USUAL = {
    "history": "no damage was found",
    "clock": "plausible",
    "components": "no circuit is open",
}


class Condition(msgspec.Struct, frozen=True):
    """One condition. ``tone`` is ``ok``, ``wait``, ``fail`` or ``quiet``; ``word`` is the same.

    ``since_ms``: since when it is not well, in milliseconds since 1970; None: this is not known.
    ``page``: the page that shows more, relative to the overview; empty: there is none.
    ``advice``: what can be done.
    """

    name: str
    tone: str
    text: str
    since_ms: int | None = None
    page: str = ""
    advice: str = ""

    @property
    def sign(self) -> str:
        """The sign of the tone."""
        return {"ok": "✓", "wait": "!", "fail": "✗"}.get(self.tone, "-")

    @property
    def word(self) -> str:
        """The tone in a word, for whoever sees no colours."""
        return {"ok": "well", "wait": "look at it", "fail": "not well"}.get(self.tone, "not used")


class Disk(msgspec.Struct, frozen=True):
    """The disk with the journals: sizes in bytes."""

    total_bytes: int
    free_bytes: int


def conditions_of(processes: Sequence[NodeStatus]) -> list[Condition]:
    """The conditions that the processes check themselves.

    If several processes run, and do not say the same, the condition names the process.
    """
    found: list[Condition] = []
    checks = [name for process in processes for name, _, _ in process.checks]
    for check in dict.fromkeys((*_FIRST, *checks)):
        journals: dict[Condition, list[str]] = {}
        for process in processes:
            for of_check, ok, text in process.checks:
                if of_check == check:
                    journals.setdefault(_condition(check, text, process, ok=ok), []).append(
                        process.journal
                    )
        for condition, names in journals.items():
            is_of_all = len(names) == len(processes)
            whose = condition.name if is_of_all else f"{condition.name} ({', '.join(names)})"
            found.append(msgspec.structs.replace(condition, name=whose))
    return found


def _condition(check: str, text: str, process: NodeStatus, *, ok: bool) -> Condition:
    name = CHECK_NAMES.get(check, check)
    if ok or (check == "serving" and process.draining):
        is_usual = _USUAL.get(check, text) == text
        waits = not ok or not is_usual or (check == "room" and process.paused)
        return Condition(name, "wait" if waits else "ok", text)
    return Condition(name, "fail", text, process.faults_since_ms.get(check))


def split(conditions: Sequence[Condition]) -> tuple[list[Condition], list[str]]:
    """The conditions to show, the worst first, and the names of others that are well."""
    names = {CHECK_NAMES.get(check, check) for check in _FIRST} | {"disk", "balancer"}
    shown = [each for each in conditions if each.tone != "ok" or each.name.split(" ")[0] in names]
    return worst_first(shown), [each.name for each in conditions if each not in shown]


def worst_first(conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions in the order of their tones; those with the same tone keep their order."""
    order = ("fail", "wait", "ok", "quiet")
    return sorted(conditions, key=lambda each: order.index(each.tone))


def disk_condition(
    disk: Disk | None, journal_bytes: Mapping[str, int], most_bytes: int
) -> Condition:
    """The room for the journals. ``most_bytes`` is the limit of each history."""
    used = ", ".join(
        (f"{name} " if len(journal_bytes) > 1 else "")
        + f"{size(each)} of at most {size(most_bytes)}"
        for name, each in journal_bytes.items()
    )
    if disk is None:
        return Condition("disk", "wait", f"journal {used}; the free space is not known")
    text = f"{size(disk.free_bytes)} free of {size(disk.total_bytes)}; journal {used}"
    least = min(LEAST_FREE_BYTES, int(disk.total_bytes * LEAST_FREE_SHARE))
    if disk.free_bytes < least:
        return Condition("disk", "fail", f"nearly full: {text}")
    still_to_grow = sum(max(0, most_bytes - each) for each in journal_bytes.values())
    if disk.free_bytes < still_to_grow:
        return Condition("disk", "wait", f"the journal may become larger than the disk: {text}")
    return Condition("disk", "ok", text)


def nodes_condition(faults: Mapping[str, tuple[str, int | None]]) -> list[Condition]:
    """A condition for each other node that cannot take runs: why, and since when."""
    return [
        Condition(
            f"node {plain_name(node)}", "fail", why, since_ms, "nodes",
            f"Start node {plain_name(node)}, or take it out of nodes.conf on this machine.",
        )
        for node, (why, since_ms) in faults.items()
    ]  # fmt: skip


def not_well(conditions: Sequence[Condition]) -> list[Health]:
    """The conditions that are not well, in one line; empty: there is none."""
    bad = [each for each in conditions if each.tone == "fail"]
    if not bad:
        return []
    since_ms = min((each.since_ms for each in bad if each.since_ms is not None), default=None)
    names = ", ".join(each.name for each in bad)
    return [Health("fail", "✗", f"not well: {names}", since_ms, page="#conditions")]


def no_answer(journals: Sequence[str]) -> Condition:
    """The condition of processes that run and do not answer."""
    which = ", ".join(journals)
    return Condition(
        count(len(journals), "process", "processes"), "fail", f"no answer from {which}"
    )
