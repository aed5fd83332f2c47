"""Random numbers that are the same in each simulation."""

from __future__ import annotations

import hashlib

FRACTION = 0.5  # the mean of random fractions: a pause with jitter gets its mean length


class FixedRandom:
    """Port `Random`. Each fraction is 0.5, and tokens are computed from a seed."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._drawn = 0

    def fraction(self) -> float:
        """Always 0.5."""
        return FRACTION

    def token(self, size: int) -> bytes:
        """The next token of ``size`` bytes. The seed determines all tokens."""
        self._drawn += 1
        return hashlib.shake_128(f"{self._seed}:{self._drawn}".encode()).digest(size)
