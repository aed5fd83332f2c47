"""What operators use is made when it is used first."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractal_rm.web.operator import Operator


class LateOperator:
    """Makes the `Operator` of this process once, at its first use. ``made`` is None before."""

    def __init__(self, make: Callable[[], Operator]) -> None:
        self._make = make
        self._making = Lock()
        self.made: Operator | None = None

    def get(self) -> Operator:
        """The operator. Call this in a thread: it may import modules."""
        with self._making:
            if self.made is None:
                self.made = self._make()
            return self.made

    def end_streams(self) -> None:
        """End all live events at once. Clients may connect again, and miss nothing."""
        if self.made is not None:
            self.made.live.end_all()

    async def stop(self) -> None:
        """End the streams, and stop the actions on many runs."""
        if self.made is not None:
            await self.made.stop()
