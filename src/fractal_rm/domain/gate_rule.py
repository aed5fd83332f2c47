"""What limits the calls to a component, or the offers to a node."""

from __future__ import annotations

import msgspec

from fractal_rm.domain.circuit import CircuitRule
from fractal_rm.domain.rate import Rate


class GateRule(msgspec.Struct, frozen=True):
    """``limit``: how many may be in flight. ``rate``: how many may begin in a time.

    ``circuit``: when no calls are made because too many failed. None: there is no such rule.
    """

    limit: int | None = None
    rate: Rate | None = None
    circuit: CircuitRule | None = None


NO_RULE = GateRule()
