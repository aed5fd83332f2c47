"""The rates of flows (``LIMIT 10/s``): when the next run of a flow may begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import UNSET

from fractal_rm.domain.flow import Flow
from fractal_rm.domain.rate import Rate, TokenBucket
from fractal_rm.engine.timers import Timer, Timers


class FlowRates:
    """A bucket for each flow with a rate. Each run takes a token when it begins for the first time.

    ``buckets`` has them by flow id; without a flow with a rate it is empty. ``on_due`` is called
    with the id of a flow when one of its runs may begin. ``last_used_s`` is when a run may have
    begun last, before this process, on the steady clock; None: there was none.
    """

    def __init__(self) -> None:
        self.on_due: Callable[[str], object] = lambda _: None
        self.last_used_s: float | None = None
        self._timers: Timers | None = None
        self.buckets: dict[str, TokenBucket] = {}
        self._due: dict[str, Timer] = {}  # by flow id

    def use(self, timers: Timers, on_due: Callable[[str], object]) -> None:
        """Use these timers. Without timers, every run may begin."""
        self._timers, self.on_due = timers, on_due

    def may_begin(self, flow_id: str, rate: Rate | None) -> bool:
        """Whether a token is free. Otherwise, ``on_due`` is called when it is."""
        timers = self._timers
        if rate is None or timers is None:
            return True
        bucket = self.buckets.get(flow_id)
        if bucket is None:
            bucket = self.buckets[flow_id] = TokenBucket(rate, self.last_used_s)
        elif bucket.rate != rate:
            bucket.change(rate)
            self._cancel(flow_id)
        wait_s = bucket.wait_s(timers.now_ms() / 1000)
        if wait_s > 0 and flow_id not in self._due:
            self._due[flow_id] = timers.set(round(wait_s * 1000, 3), lambda: self._notify(flow_id))
        return wait_s == 0

    def take(self, flow_id: str) -> None:
        """Take a token for a run that begins. A flow without a rate has no bucket."""
        bucket = self.buckets.get(flow_id)
        if bucket is not None and self._timers is not None:
            bucket.take(self._timers.now_ms() / 1000)

    def keep(self, flows: Mapping[str, Flow]) -> None:
        """Forget the flows that no longer have a rate."""
        for flow_id in [*self.buckets]:
            flow = flows.get(flow_id)
            if flow is None or flow.queueing is UNSET or flow.queueing.rate is None:
                del self.buckets[flow_id]
                self._cancel(flow_id)

    def cancel_timers(self) -> None:
        """Cancel the timers of all flows."""
        for flow_id in [*self._due]:
            self._cancel(flow_id)

    def _cancel(self, flow_id: str) -> None:
        timer = self._due.pop(flow_id, None)
        if timer is not None:
            timer.cancel()

    def _notify(self, flow_id: str) -> None:
        del self._due[flow_id]
        self.on_due(flow_id)
