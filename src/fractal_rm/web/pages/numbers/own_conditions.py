"""The conditions that no check of the node knows: its balancer, its other nodes, and its disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from fractal_rm.adapters.disk_space import disk_space
from fractal_rm.config.model import Config
from fractal_rm.domain.balancer_seen import balancer_condition
from fractal_rm.domain.conditions import Condition, disk_condition, nodes_condition
from fractal_rm.domain.node_check import fault_of
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.web.pages.numbers.peers import OtherNodes
from fractal_rm.web.pages.numbers.samples import WAIT_S, WINDOW_MINUTES, Samples


class OwnConditions:
    """Makes these conditions from what is read and asked in the background."""

    def __init__(
        self,
        config: Callable[[], Config],
        samples: Samples,
        others: OtherNodes,
    ) -> None:
        self._config = config
        self._samples = samples
        self._others = others

    async def now(self, processes: Sequence[NodeStatus], wait_s: float = WAIT_S) -> list[Condition]:
        """The conditions, after at most about ``wait_s`` for what is being read."""
        config = self._config()
        disk, balancer, nodes = await asyncio.gather(
            asyncio.to_thread(disk_space, Path(config.state_path)),
            self.balancer(wait_s),
            self._nodes(config, wait_s),
        )
        sizes = {each.journal: each.journal_bytes for each in processes}
        return [*nodes, balancer, disk_condition(disk, sizes, config.bounds.history_bytes)]

    async def balancer(self, wait_s: float = WAIT_S) -> Condition:
        """The condition of the balancer."""
        config = self._config()
        sample = await self._samples.latest(wait_s)
        if sample is None and config.balancer is not None:
            return Condition("balancer", "quiet", "the newest runs are being read")
        placements = [run.placements for run in sample.runs] if sample else []
        return balancer_condition(
            configured=config.balancer is not None,
            placements=placements,
            own_id=config.node_id,
            within=f"in the last {WINDOW_MINUTES} minutes",
        )

    async def _nodes(self, config: Config, wait_s: float) -> list[Condition]:
        """The other nodes that cannot be reached: one condition, or none."""
        if all(node == config.node_id for node in config.nodes):
            return []
        asked = await self._others.answers(config, wait_s)
        faults = {
            node: (fault, each.since_ms)
            for node, each in asked.items()
            if node != config.node_id and (fault := fault_of(each.answer))
        }
        return nodes_condition(faults)
