"""Place: ask the Load Balancer where a run goes. Whatever it does, the run has a place."""

from __future__ import annotations

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.errors import CallFailed
from fractal_rm.domain.facts import Placed
from fractal_rm.domain.placement import Here, Place, There, cannot_run, decide
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import BY_SENDER, HERE, OFFERED
from fractal_rm.engine.recorder import Recorder
from fractal_rm.engine.world import World

_BY_SENDER = Here("the sender had placed it here", Cause.BY_SENDER)
_NO_BALANCER = Here("no balancer is configured", Cause.NO_BALANCER)


class Placer:
    """Chooses a place once for each run and keeps the reason with it."""

    def __init__(self, world: World, recorder: Recorder) -> None:
        self._world = world
        self._recorder = recorder

    async def place(self, run: Run) -> str | None:
        """The node that ``run`` is offered to; None: it runs here.

        A run that went on after a crash stays where it was placed.
        """
        if run.placement in OFFERED:
            return run.node
        if run.placement is HERE:
            return None
        place = await self._choose(run)
        if isinstance(place, There):
            self._recorder.record(run, Placed(place.node, place.reason, cause=Cause.BALANCER))
            return place.node
        fact = Placed(run.home, place.reason, cause=place.cause, named=place.named)
        self._recorder.record(run, fact)
        return None

    async def _choose(self, run: Run) -> Place:
        config = self._world.config
        if run.placement is BY_SENDER:
            return _BY_SENDER
        if config.balancer is None:
            return _NO_BALANCER
        try:
            answer = await self._world.balancer.ask(config.balancer)
        except CallFailed as error:
            return Here(f"the balancer did not help: {error}", Cause.BALANCER_FAILED)
        place = decide(answer, config.nodes, self._world.node_id)
        if isinstance(place, There):
            node = config.nodes[place.node]
            why_not = cannot_run(node.peer, run.flow.id, ours=self._world.is_ours(node))
            if why_not is not None:
                return Here(f"node {node.id} {why_not}", Cause.UNFIT_PEER, node.id)
        return place
