"""Place: choose the node that executes a run. If the balancer fails, the run stays here."""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.domain.call_errors import CallFailed
from fractal_rm.domain.facts import Placed, none_if_unset
from fractal_rm.domain.handoff.moving import can_move
from fractal_rm.domain.placement import (
    NO_BALANCER,
    PLACED_BY_SENDER,
    REPEATED_HERE,
    RETURNED,
    Place,
    There,
    balancer_failed,
    place_away,
    place_by_balancer,
)
from fractal_rm.domain.run import Run
from fractal_rm.domain.run_id import is_continuation
from fractal_rm.domain.state import BY_SENDER, HERE, OFFERED
from fractal_rm.engine.condition import Condition
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.recorder import Recorder


class Placer:
    """Chooses the node of each run once, and records the reason.

    While the node is drained, another node is chosen after each refusal, until none is left.
    """

    def __init__(
        self, dependencies: Dependencies, recorder: Recorder, condition: Condition
    ) -> None:
        self._dependencies = dependencies
        self._recorder = recorder
        self._condition = condition
        self._tried: dict[str, set[str]] = {}  # nodes that did not take a run, by run id

    async def place(self, run: Run) -> str | None:
        """Return the id of the node to offer ``run`` to; None: this node executes or cancels it.

        After a crash, a run keeps the node that was chosen before. The policies are in
        `domain.placement`.
        """
        if run.placement in OFFERED:
            return run.node
        if run.cancel is not None:
            return None
        place = await self._choose_away(run) if self._condition.draining else None
        if place is None:
            if run.placement is HERE:
                return None
            place = self._choose_without_balancer(run) or await self._ask_balancer()
        if isinstance(place, There):
            self._recorder.record(run, Placed(place.node, place.reason, cause=place.cause))
            return place.node
        this_node = none_if_unset(run.accepted.node)
        fact = Placed(this_node, place.reason, cause=place.cause, named_node=place.named_node)
        self._recorder.record(run, fact)
        return None

    def forget(self, run: Run) -> None:
        """Forget which nodes did not take a run: another node has it, or may have it."""
        self._tried.pop(run.id, None)

    def _choose_without_balancer(self, run: Run) -> Place | None:
        """The place of a run about which the balancer is not asked. None: it is asked."""
        if run.placement is BY_SENDER:
            if run.accepted.replays is not UNSET:
                return REPEATED_HERE
            return RETURNED if is_continuation(run.id) else PLACED_BY_SENDER
        return NO_BALANCER if self._dependencies.balancer is None else None

    async def _ask_balancer(self) -> Place:
        balancer = self._dependencies.balancer
        if balancer is None:
            return NO_BALANCER
        try:
            answer = await balancer.ask()
        except CallFailed as error:
            return balancer_failed(str(error))
        nodes = self._dependencies.config.nodes
        return place_by_balancer(answer, nodes, self._dependencies.node_id)

    async def _choose_away(self, run: Run) -> There | None:
        """Choose another node for a run of a drained node. None: no node is left to try."""
        if not can_move(run):
            return None
        nodes, own_id = self._dependencies.config.nodes, self._dependencies.node_id
        tried = self._tried.setdefault(run.id, set())
        choice = await self._ask_balancer() if run.sender is None and not tried else None
        place = place_away(run.sender, choice, tried, nodes, own_id)
        if place is None:
            self.forget(run)
        else:
            tried.add(place.node)
        return place
