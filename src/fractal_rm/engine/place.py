"""Place: choose the node that executes a run. If the balancer fails, the run stays here."""

from __future__ import annotations

from fractal_rm.domain.call_errors import CallFailed
from fractal_rm.domain.facts import Placed, none_if_unset
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
    """Chooses the node of each run once, and records the reason."""

    def __init__(self, dependencies: Dependencies, recorder: Recorder) -> None:
        self._dependencies = dependencies
        self._recorder = recorder

    async def place(self, run: Run) -> str | None:
        """Return the id of the node to offer ``run`` to; None: this node executes it.

        The policies are in `domain.placement`.

        After a crash, a run keeps the node that was chosen before.
        """
        if run.placement in OFFERED:
            return run.node
        if run.placement is HERE:
            return None
        balancer = self._dependencies.balancer
        if run.placement is BY_SENDER:
            place = PLACED_BY_SENDER
        elif balancer is None:
            place = NO_BALANCER
        else:
            try:
                place = self._place_by_answer(run, await balancer.ask())
            except CallFailed as error:
                place = balancer_failed(str(error))
        if isinstance(place, There):
            self._recorder.record(run, Placed(place.node, place.reason, cause=place.cause))
            return place.node
        this_node = none_if_unset(run.accepted.node)
        fact = Placed(this_node, place.reason, cause=place.cause, named_node=place.named_node)
        self._recorder.record(run, fact)
        return None

    def _place_by_answer(self, run: Run, answer: str | None) -> Place:
        """The place that the balancer has named with ``answer``, if its node can run the flow."""
        config = self._dependencies.config
        place = place_by_balancer(answer, config.nodes, self._dependencies.node_id)
        if isinstance(place, There):
            node = config.nodes[place.node]
            return replace_if_unfit(
                place,
                node.peer,
                run.flow.id,
                runs_this_program=self._dependencies.is_known_peer(node),
            )
        return place
