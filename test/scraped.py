"""Reads the metrics of a stage as Prometheus does."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from engine_stage import Stage
from fractal_rm.adapters.metrics import Metrics


class Scraped:
    """The metrics of a stage, read by the parser of prometheus_client."""

    def __init__(self, stage: Stage) -> None:
        stage.journal.counting = stage.dependencies.counting
        self.metrics = Metrics(stage.dependencies, stage.node.status)
        self.metrics.start()
        self._stage = stage

    async def text(self) -> str:
        self._stage.clock.ms += 1_000  # texts are reused for a short time
        return (await self.metrics.exposition()).decode()

    async def values(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of a metric, by the values of its labels."""
        return {
            tuple(sample.labels.values()): sample.value
            for family in text_string_to_metric_families(await self.text())
            for sample in family.samples
            if sample.name == f"fractal_rm_{name}"
        }
