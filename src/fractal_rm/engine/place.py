"""Place: choose the node of a run. A run always gets a place, whatever the balancer does."""

from __future__ import annotations

from fractal_rm.domain.call_errors import CallFailed
from fractal_rm.domain.facts import Placed
from fractal_rm.domain.placement import (
    NO_BALANCER,
    PLACED_BY_SENDER,
    Place,
    There,
    balancer_failed,
    place_by_balancer,
    replace_if_unfit,
)
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import BY_SENDER, HERE, OFFERED
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.recorder import Recorder


class Placer:
    """Chooses a place once for each run and keeps the reason with it."""

    def __init__(self, world: Dependencies, recorder: Recorder) -> None:
        self._world = world
        self._recorder = recorder

    async def place(self, run: Run) -> str | None:
        """The node that ``run`` is to be offered to; None: it runs here.

        A run that is resumed after a crash stays where it was placed.
        """
        if run.placement in OFFERED:
            return run.node
        if run.placement is HERE:
            return None
        place = await self._choose(run)
        if isinstance(place, There):
            self._recorder.record(run, Placed(place.node, place.reason, cause=place.cause))
            return place.node
        fact = Placed(run.accepted_by, place.reason, cause=place.cause, named=place.named)
        self._recorder.record(run, fact)
        return None

    async def _choose(self, run: Run) -> Place:
        """Apply the policy; the policies are in `domain.placement`."""
        if run.placement is BY_SENDER:
            return PLACED_BY_SENDER
        config, balancer = self._world.config, self._world.balancer
        if balancer is None:
            return NO_BALANCER
        try:
            answer = await balancer.ask()
        except CallFailed as error:
            return balancer_failed(str(error))
        place = place_by_balancer(answer, config.nodes, self._world.node_id)
        if isinstance(place, There):
            node = config.nodes[place.node]
            return replace_if_unfit(
                place, node.peer, run.flow.id, ours=self._world.is_known_peer(node)
            )
        return place
