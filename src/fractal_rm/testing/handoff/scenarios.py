"""The scenarios that are explored, and those in which each mistake must be found."""

from __future__ import annotations

from dataclasses import dataclass

from fractal_rm.testing.handoff.placing import Site
from fractal_rm.testing.handoff.world import Faults


@dataclass(frozen=True)
class Scenario:
    """Nodes and the faults that may happen to them.

    ``names`` are the letters of the nodes; the first has the run. ``stays_away`` is a node that
    does not start again after a crash.
    """

    title: str
    names: str
    site: Site
    faults: Faults
    stays_away: str = ""

    def with_total(self, total: int) -> Scenario:
        """The same scenario with another number of faults in all."""
        faults = self.faults._replace(total=total)
        return Scenario(self.title, self.names, self.site, faults, self.stays_away)


_TO_B = Site({"A": "B"})
_TO_ORIGINAL = Site({"A": "B"}, peer=None)
_RING = Site({"A": "B", "B": "C", "C": "A"})
_LOST_FOLDER_FAULTS = Faults(2, crashes=1, losses=1, delays=1, drains=1, stores=1)

TWO_NODES = Scenario(
    "two nodes, and all faults except lost state folders",
    "AB",
    _TO_B,
    Faults(2, crashes=2, losses=2, repeats=2, delays=2, full=2, drains=2),
)
NETWORK = Scenario(
    "two nodes that are killed, and a bad network",
    "AB",
    _TO_B,
    Faults(3, crashes=2, losses=2, repeats=2, delays=2),
)
DRAINED = Scenario(
    "two nodes that are drained and killed, and lost messages",
    "AB",
    _TO_B,
    Faults(3, crashes=1, losses=1, drains=2),
)
THREE_NODES = Scenario(
    "three nodes whose balancers name each other in a ring",
    "ABC",
    _RING,
    Faults(2, crashes=2, losses=2, repeats=2, delays=2, full=1, drains=2),
)
LOST_FOLDER = Scenario(
    "two nodes, and a lost state folder; nodes.conf sets peer to fractal",
    "AB",
    _TO_B,
    _LOST_FOLDER_FAULTS,
)
LOST_FOLDER_UNKNOWN_PEER = Scenario(
    "two nodes, and a lost state folder; nodes.conf sets no peer",
    "AB",
    _TO_ORIGINAL,
    _LOST_FOLDER_FAULTS,
)
STAYS_AWAY = Scenario(
    "two nodes, of which B does not start again after a crash",
    "AB",
    _TO_B,
    Faults(2, crashes=1, losses=1, repeats=1, delays=1),
    stays_away="B",
)
OPERATOR = Scenario(
    "two nodes, and an operator who decides, perhaps wrongly",
    "AB",
    _TO_B,
    Faults(2, crashes=1, losses=1, repeats=1, delays=1, decisions=1),
)
SCENARIOS = (
    TWO_NODES,
    NETWORK,
    DRAINED,
    THREE_NODES,
    LOST_FOLDER,
    LOST_FOLDER_UNKNOWN_PEER,
    STAYS_AWAY,
    OPERATOR,
)

_FULL_AND_COPIES = Scenario(
    "two nodes, of which one is full for a while, and late copies",
    "AB",
    _TO_B,
    Faults(3, crashes=1, repeats=1, full=1),
)
# Where each mistake (`rules.MISTAKES`) is found. In the other scenarios, some do no harm.
FOUND_IN = {
    "the sender does not compare the epoch in an answer": NETWORK.with_total(2),
    "the receipt is sent before the run is on the disk": TWO_NODES,
    "the sender executes the run here after silence": TWO_NODES,
    "a received run is placed again by the balancer": THREE_NODES,
    "the receiver does not remember its refusals": _FULL_AND_COPIES,
    "the receiver does not compare the boot": _FULL_AND_COPIES,
    "nobody compares the store": LOST_FOLDER,
    "a refusal does not end the doubt": TWO_NODES.with_total(1),
    "a node that returns a run calls it its own": DRAINED.with_total(2),
    "the sender trusts a busy node that does not name the offer": _FULL_AND_COPIES,
    "a node names the offer when it refuses a copy of an accepted one": _FULL_AND_COPIES,
}
