"""The conditions of a node in words: what is well, and what is not.

They are made from the checks of its processes (`NodeStatus.checks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.story.words import count, size

LEAST_FREE_BYTES = 256 * 1024 * 1024
LEAST_FREE_SHARE = 0.05
# What each check is about, in the order in which the conditions are shown.
_NAMES = {
    "serving": "triggers", "mqtt": "broker", "rest": "REST", "journal": "journal",
    "room": "queue", "components": "circuits", "runs": "open runs", "history": "history",
    "clock": "clock", "schedules": "schedules", "commands": "commands",
}  # fmt: skip
# These checks are for information, and are always well: another text is a warning.
_USUAL = {
    "history": "no damage was found",
    "clock": "plausible",
    "components": "no circuit is open",
}


class Condition(msgspec.Struct, frozen=True):
    """One condition. ``tone`` is ``ok``, ``wait``, ``fail`` or ``quiet``; ``word`` is the same."""

    name: str
    tone: str
    text: str

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
    """The conditions that the processes check themselves. What is not well comes first.

    If several processes run, and do not say the same, the condition names the process.
    """
    found: list[Condition] = []
    for check, name in _NAMES.items():
        texts: dict[tuple[str, str], list[str]] = {}
        for process in processes:
            for of_check, ok, text in process.checks:
                if of_check == check:
                    tone = _tone(check, text, process, ok=ok)
                    texts.setdefault((tone, text), []).append(process.journal)
        for (tone, text), journals in texts.items():
            named = len(texts) > 1 or 1 < len(processes) != len(journals)
            whose = f" ({', '.join(journals)})" if named else ""
            found.append(Condition(name + whose, tone, text))
    return worst_first(found)


def _tone(check: str, text: str, process: NodeStatus, *, ok: bool) -> str:
    if check == "serving" and process.draining:
        return "wait"
    if not ok:
        return "fail"
    if check == "room" and process.paused:
        return "wait"
    return "ok" if _USUAL.get(check, text) == text else "wait"


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


def no_answer(journals: Sequence[str]) -> Condition:
    """The condition of processes that run and do not answer."""
    which = ", ".join(journals)
    return Condition(
        count(len(journals), "process", "processes"), "fail", f"no answer from {which}"
    )
