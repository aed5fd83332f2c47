"""Every order of messages, crashes and commands at a hand-off, within bounds; see the model.

`pytest -s` shows the numbers of states, and for each mistake the shortest way to its harm.
"""

from __future__ import annotations

import pytest

from fractal_rm.testing.handoff.explore import explore, report
from fractal_rm.testing.handoff.rules import MISTAKES
from fractal_rm.testing.handoff.scenarios import (
    FOUND_IN,
    LOST_FOLDER,
    LOST_FOLDER_UNKNOWN_PEER,
    OPERATOR,
    SCENARIOS,
    STAYS_AWAY,
)

ONCE, IN_DOUBT = "executed once", "in doubt, until an operator decides"
ONCE_BUT_OPEN = "executed once, and in doubt at its sender"
LOST = "lost with the state folder of its node"
TWICE = "executed twice, and says so"
ENDS = {
    LOST_FOLDER.title: {ONCE, ONCE_BUT_OPEN, IN_DOUBT, LOST},
    LOST_FOLDER_UNKNOWN_PEER.title: {ONCE, TWICE, LOST},
    STAYS_AWAY.title: {ONCE, ONCE_BUT_OPEN, IN_DOUBT, "on a node that has not started again"},
    OPERATOR.title: {ONCE, TWICE, "not executed, as an operator decided"},
}


def title(scenario) -> str:
    return scenario.title


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=title)
def test_a_run_is_executed_once_whatever_happens_within_the_bounds(scenario):
    result = explore(scenario)
    print(f"\n{scenario.title}; at most {scenario.faults.total} faults")
    report(result, print)
    assert result.broken == ""
    assert set(result.ends) == ENDS.get(scenario.title, {ONCE})


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_deliberate_mistake_in_one_rule_is_found(mistake):
    result = explore(FOUND_IN[mistake], MISTAKES[mistake])
    print(f"\ndeliberate mistake: {mistake}")
    report(result, print)
    assert result.broken
    assert result.trace
