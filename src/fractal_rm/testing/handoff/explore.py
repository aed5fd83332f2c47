"""Visit every state of a scenario, breadth first, and check the promises of the hand-off."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fractal_rm.testing.handoff.moves import Moves, first_world, is_offered, open_runs
from fractal_rm.testing.handoff.rules import REAL, Rules
from fractal_rm.testing.handoff.scenarios import Scenario
from fractal_rm.testing.handoff.world import World


@dataclass
class Result:
    """What was found. ``broken`` is the promise that does not hold, and ``trace`` the way to it.

    ``transitions`` are the moves that lead to another state. ``ends`` counts the states from which
    nothing happens any more, by how the run ended.
    """

    states: int = 0
    transitions: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    broken: str = ""
    trace: list[str] = field(default_factory=list)


def explore(scenario: Scenario, rules: Rules = REAL) -> Result:
    """Visit all states. Ends at the first broken promise; its trace is the shortest."""
    moves = Moves(scenario.site, rules, scenario.stays_away)
    first = first_world(scenario.names, scenario.faults)
    numbers: dict[World, int] = {first: 0}
    came_from: list[tuple[int, str]] = [(-1, "")]
    fair_from: list[list[int]] = [[]]  # the states before each state, by moves that are no faults
    ends: list[int] = []
    result = Result()
    todo = [first]
    for at, world in enumerate(todo):  # the list grows meanwhile
        can_continue = False
        for move in moves.of(world):
            new = move.world
            if new == world:
                continue
            result.transitions += 1
            can_continue = can_continue or not move.is_fault
            number = numbers.setdefault(new, len(todo))
            if number == len(todo):
                todo.append(new)
                came_from.append((at, move.words))
                fair_from.append([])
                broken = _broken_in(new)
                if broken:
                    return _broken(result, broken, number, came_from, len(todo))
            if not move.is_fault:
                fair_from[number].append(at)
        if not can_continue:
            ends.append(at)
            how, broken = _end(world, scenario)
            if broken:
                return _broken(result, broken, at, came_from, len(todo))
            result.ends[how] = result.ends.get(how, 0) + 1
    result.states = len(todo)
    stuck = _without_way_to(ends, fair_from)
    if stuck is not None:
        broken = "the run never ends, although no more faults happen"
        return _broken(result, broken, stuck, came_from, len(todo))
    return result


def _broken_in(world: World) -> str:
    """The promise that is broken in this state, or nothing."""
    if world.second_hop:
        return "a received run was offered on"
    if world.excused:
        return ""
    if len(world.begun) > 1:
        return f"{' and '.join(sorted(world.begun))} have begun to execute the run"
    return "the run was executed twice" if world.finished > 1 else ""


def _end(world: World, scenario: Scenario) -> tuple[str, str]:
    """How the run ended in a state from which nothing happens, and the promise that is broken."""
    is_away = bool(scenario.stays_away) and not world.node(scenario.stays_away).up
    may_stay_open = is_away or any(node.stores > 1 for _, node in world.nodes)
    still_open = open_runs(world)
    ends = (
        (world.finished == 1 and not still_open, "executed once"),
        (world.finished == 1 and may_stay_open, "executed once, and in doubt at its sender"),
        (world.finished > 1, "executed twice, and says so"),  # or `_broken_in` has found it
        (is_offered(world) and may_stay_open, "in doubt, until an operator decides"),
        (world.lost, "lost with the state folder of its node"),
        (is_away, "on a node that has not started again"),
        (world.excused and not still_open, "not executed, as an operator decided"),
    )
    for is_so, how in ends:
        if is_so:
            return how, ""
    what = "was executed, but is still open" if world.finished else "is lost"
    return "", f"the run {what}; open: {', '.join(still_open) or 'nothing'}"


def _without_way_to(ends: Iterable[int], fair_from: list[list[int]]) -> int | None:
    """The first state from which no sequence of moves without faults leads to an end."""
    reached = [False] * len(fair_from)
    todo = list(ends)
    for at in todo:
        reached[at] = True
    while todo:
        for before in fair_from[todo.pop()]:
            if not reached[before]:
                reached[before] = True
                todo.append(before)
    return next((at for at, is_reached in enumerate(reached) if not is_reached), None)


def _broken(
    result: Result, broken: str, at: int, came_from: list[tuple[int, str]], states: int
) -> Result:
    result.states, result.broken = states, broken
    while at > 0:
        at, words = came_from[at]
        result.trace.append(words)
    result.trace.reverse()
    return result


def report(result: Result, show: Callable[[str], None]) -> None:
    """Show the result of a scenario in a few lines."""
    show(f"  {result.states} states, {result.transitions} transitions")
    for how, count in sorted(result.ends.items()):
        show(f"  {count:6} ends: {how}")
    if result.broken:
        show(f"  BROKEN: {result.broken}")
        for number, words in enumerate(result.trace, 1):
            show(f"  {number:3}. {words}")
