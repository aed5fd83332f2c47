"""What actions on many runs are called on pages."""

from __future__ import annotations

import msgspec

from fractal_rm.web.bulks import Bulk


class BulkWords(msgspec.Struct, frozen=True):
    """``base`` as in "Replay 3 runs", and ``past`` as in "3 replayed". ``effect``: what happens."""

    base: str
    past: str
    effect: str
    noun: str = "run"

    def things(self, number: int) -> str:
        """A number of them: ``1 run``, ``3,412 dead letters``."""
        return f"{number:,} {self.noun}{'' if number == 1 else 's'}"


_WORDS = {
    "cancel": BulkWords(
        "Cancel", "cancelled",
        "A run that waits ends at once. A run in flight ends after its current step.",
    ),
    "replay": BulkWords(
        "Replay", "replayed",
        "Each run is replayed as a new run with the same payload. The ended run stays as it was.",
    ),
    "send": BulkWords(
        "Send", "sent",
        "Each message is sent as it arrived. Those that are accepted now become new runs, which"
        " make their calls.",
    ),
    "discard": BulkWords(
        "Discard", "discarded",
        "Each is marked: it needs no more attention. It stays in the history.",
    ),
    "release": BulkWords("Release", "released", "Each run goes on after its last finished step."),
}  # fmt: skip


def words_for(action: str, *, is_letter: bool = False) -> BulkWords:
    """The words for an action."""
    words = _WORDS[action]
    return msgspec.structs.replace(words, noun="dead letter") if is_letter else words


def words_of_bulk(bulk: Bulk) -> BulkWords:
    """The words for an action that goes on."""
    return words_for(bulk.action, is_letter=bulk.request.filter.dead_letters is True)
