"""How a node chooses the place of a run, and executes it. `engine.place` does the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fractal_rm.domain.facts import Placed, RequestStarted, Settled
from fractal_rm.domain.handoff.sender import AfterSilence
from fractal_rm.domain.placement import NO_BALANCER, Place, There, place_away, place_by_balancer
from fractal_rm.domain.state import HERE, State
from fractal_rm.testing.handoff.rules import Rules
from fractal_rm.testing.handoff.runs import RunView, after, may_move
from fractal_rm.testing.handoff.world import Move, Progress, World, drop, get, put


@dataclass(frozen=True)
class Site:
    """The settings of all nodes. ``balancers``: the node that the balancer of each node names.

    ``peer`` and ``after_silence`` are those of every node in nodes.conf.
    """

    balancers: Mapping[str, str]
    peer: str | None = "fractal"
    after_silence: AfterSilence | None = None


class Placer:
    """Chooses the places of runs."""

    def __init__(self, site: Site, rules: Rules) -> None:
        self._site = site
        self._rules = rules

    def place(self, world: World, name: str, run_id: str, view: RunView) -> Move:
        """Choose the node of a run, as `engine.place` does, or begin to execute it."""
        node = world.node(name)
        place = self._away(world, name, run_id, view) if node.draining else None
        if place is None:
            node = node._replace(tried=drop(node.tried, run_id))
            if view.placement is HERE:
                return begin(world.with_node(name, node), name, run_id, view)
            choice = self._balancer_choice(world, name)
            is_own = view.sender is None
            place = choice if is_own else self._rules.place_received(run_id, choice)
        else:
            tried = get(node.tried, run_id) or frozenset()
            node = node._replace(tried=put(node.tried, run_id, tried | {place.node}))
        if isinstance(place, There):
            fact = Placed(place.node, place.reason, cause=place.cause)
            node = node._replace(offering=put(node.offering, run_id, Progress()))
            words = f"{name} chooses {place.node} for {name_of(run_id)}: {place.reason}"
        else:
            fact = Placed(name, place.reason, cause=place.cause)
            words = f"{name} will execute {name_of(run_id)}: {place.reason}"
        node = node.with_run(run_id, after(view, run_id, fact))
        return Move(words, world.with_node(name, node))

    def _balancer_choice(self, world: World, name: str) -> Place:
        if name not in self._site.balancers:
            return NO_BALANCER
        names = [other for other, _ in world.nodes if other != name]
        return place_by_balancer(self._site.balancers[name], names, name)

    def _away(self, world: World, name: str, run_id: str, view: RunView) -> There | None:
        if not may_move(view, run_id):
            return None
        tried = get(world.node(name).tried, run_id) or frozenset()
        choice = None if tried or view.sender else self._balancer_choice(world, name)
        names = [other for other, _ in world.nodes if other != name]
        return place_away(view.sender, choice, tried, names, name)


def begin(world: World, name: str, run_id: str, view: RunView) -> Move:
    """The node begins to execute the run; its disk has that first."""
    node = world.node(name).with_run(run_id, after(view, run_id, RequestStarted(1)), synced=True)
    node = node._replace(executing=node.executing | {run_id})
    begun = world.with_node(name, node)._replace(begun=world.begun | {name})
    return Move(f"{name} begins to execute {name_of(run_id)}", begun)


def finish(world: World, name: str, run_id: str, view: RunView) -> Move:
    """The node has executed the run to its end, and its disk has that."""
    ended = after(view, run_id, Settled(State.SUCCEEDED))
    node = world.node(name).with_run(run_id, ended, synced=True)
    node = node._replace(executing=node.executing - {run_id})
    finished = world.with_node(name, node)._replace(finished=world.finished + 1)
    return Move(f"{name} finishes {name_of(run_id)}", finished)


def name_of(run_id: str) -> str:
    """The run, in words."""
    return "the returned run" if "~" in run_id else "the run"
