"""A limit for the rate of requests, for each machine.

Each machine has a bucket. A request takes one token out of the bucket of its machine. The bucket is
filled with ``rate`` tokens per second, up to ``burst`` tokens. If it is empty, the machine is above
the limit.
"""

from __future__ import annotations

from fractal_rm.domain.address import Address

MAX_MACHINES = 1_024  # further machines share one bucket
OTHERS = "others"
_SIX_BITS = 64  # the usual size of the network of one IPv6 machine or site, which it may use


class RateLimit:
    """The buckets of up to `MAX_MACHINES` machines. ``rate`` is in requests per second."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._full_at_s: dict[str, float] = {}  # when the bucket of a machine is full again

    def take(self, machine: str, now_s: float) -> bool:
        """Take a token for a request. Returns False if there is none. ``now_s`` is monotonic."""
        if machine not in self._full_at_s and len(self._full_at_s) >= MAX_MACHINES:
            self._forget_full_buckets(now_s)
            if len(self._full_at_s) >= MAX_MACHINES:
                machine = OTHERS
        full_at_s = max(self._full_at_s.get(machine, now_s), now_s) + 1 / self.rate
        if full_at_s - now_s > self.burst / self.rate + 1e-9:
            return False
        self._full_at_s[machine] = full_at_s
        return True

    def _forget_full_buckets(self, now_s: float) -> None:
        """A full bucket is the same as none."""
        for machine in [each for each, at_s in self._full_at_s.items() if at_s <= now_s]:
            del self._full_at_s[machine]


def machine_of(address: Address | None) -> str:
    """The name of a machine in a `RateLimit`. An IPv6 machine has all addresses of its /64."""
    if address is None:
        return OTHERS
    if address.version == 4:
        return str(address)
    return str(int(address) >> (128 - _SIX_BITS))
