"""Makes the metrics of a process when somebody asks for them, and serves ``metrics.port``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.engine.dependencies import Dependencies

if TYPE_CHECKING:
    from fractal_rm.adapters.metrics import Metrics


class LateMetrics:
    """The metrics of this process. They cost nothing before they are asked for."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._metrics: Metrics | None = None

    def get(self, status: Callable[[], Awaitable[NodeStatus]]) -> Metrics:
        """The metrics. The first call makes them, and begins to count."""
        if self._metrics is None:
            from fractal_rm.adapters.metrics import Metrics  # noqa: PLC0415 - most nodes need none

            self._metrics = Metrics(self._dependencies, status)
            self._metrics.start()
        return self._metrics

    async def serve(self, status: Callable[[], Awaitable[NodeStatus]]) -> None:
        """Serve the numbers on ``metrics.port``, until the task is cancelled."""
        from fractal_rm.adapters.metrics.server import MetricsServer  # noqa: PLC0415

        port, exposition = self._dependencies.config.metrics_port, self.get(status).exposition
        if port is not None:
            await MetricsServer(port, exposition, self._dependencies.telemetry).serve()

    async def exposition(self, status: Callable[[], Awaitable[NodeStatus]]) -> bytes:
        """The current numbers as text."""
        return await self.get(status).exposition()
