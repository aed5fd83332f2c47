"""Randomness that is the same in each simulation."""

from __future__ import annotations

import hashlib

MEAN = 0.5  # a pause with jitter has its mean length


class FixedRandom:
    """Port `Random` without randomness: each fraction is 0.5, and tokens are made from a seed."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._drawn = 0

    def fraction(self) -> float:
        """Always 0.5."""
        return MEAN

    def token(self, size: int) -> bytes:
        """The next ``size`` bytes of the seed's sequence."""
        self._drawn += 1
        return hashlib.shake_128(f"{self._seed}:{self._drawn}".encode()).digest(size)
