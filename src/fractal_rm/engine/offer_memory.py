"""What a node remembers about offers since it started: which it has refused, and which accepted."""

from __future__ import annotations

from collections.abc import Callable

MAX_REFUSED = 10_000
MAX_RECENT = 10_000  # accepted offers whose copies may still be on their way
MAX_ACCEPTED = 200_000  # with more, `may_have_accepted` would be wrong too often
_FILTER_BITS = 20  # 2^20 bits are 128 KiB


class OfferMemory:
    """Remembers the keys of offers. ``boot`` is the id of this start of the node.

    If there are too many offers, the node takes a new boot, as if it had started again: then all
    earlier offers are not valid any more, so they need not be remembered (`domain.handoff`).
    """

    def __init__(self, new_boot: Callable[[], str]) -> None:
        self._new_boot = new_boot
        self._recent: dict[str, None] = {}  # the oldest first
        self.boot = ""
        self._forget()

    def _forget(self) -> None:
        self.boot = self._new_boot()
        self._refused: set[str] = set()
        self._accepted_count = 0
        # A Bloom filter of all accepted offers. Accepted offers may be many, so their keys are not
        # stored.
        self._filter = bytearray(1 << _FILTER_BITS - 3)

    def refuse(self, key: str) -> None:
        """Remember that an offer was refused."""
        if len(self._refused) >= MAX_REFUSED:
            self._forget()
        else:
            self._refused.add(key)

    def has_refused(self, key: str) -> bool:
        """Whether an offer was refused since the node has this boot."""
        return key in self._refused

    def accept(self, key: str) -> None:
        """Remember that the run of an offer is given to the journal."""
        self._recent[key] = None
        if len(self._recent) > MAX_RECENT:
            del self._recent[next(iter(self._recent))]
        if self._accepted_count >= MAX_ACCEPTED:
            self._forget()
        self._accepted_count += 1
        for place in _places(key):
            self._filter[place >> 3] |= 1 << (place & 7)

    def has_just_accepted(self, key: str) -> bool:
        """Whether an offer is among the last accepted ones."""
        return key in self._recent

    def may_have_accepted(self, key: str) -> bool:
        """Whether an offer may have been accepted in this boot. False is certain."""
        bits, (first, second, third) = self._filter, _places(key)
        return bool(
            bits[first >> 3] & 1 << (first & 7)
            and bits[second >> 3] & 1 << (second & 7)
            and bits[third >> 3] & 1 << (third & 7)
        )


def _places(key: str) -> tuple[int, int, int]:
    """The three bits of a key in the filter. `hash` is different in each process."""
    value, mask = hash(key), (1 << _FILTER_BITS) - 1
    return value & mask, value >> _FILTER_BITS & mask, value >> 2 * _FILTER_BITS & mask
