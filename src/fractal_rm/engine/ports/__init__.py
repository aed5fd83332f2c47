"""What the engine needs from outside, named for the need.

Each port has a real adapter and a shipped fake, and both pass the conformance suite in
``fractal_rm.testing``.
"""

from fractal_rm.domain.call import Caller as Components
from fractal_rm.engine.ports.environment import (
    Clock,
    Random,
    Telemetry,
)
from fractal_rm.engine.ports.history import (
    History,
    Ledger,
    RunDetail,
    RunPage,
    RunSummary,
    TimedFact,
)
from fractal_rm.engine.ports.journal import (
    Adopted,
    BrokenRun,
    Entry,
    Journal,
    Prior,
    Recovered,
    Written,
)
from fractal_rm.engine.ports.observer import Observer
from fractal_rm.engine.ports.peers import (
    Balancer,
    KnownPeers,
    Peers,
)
from fractal_rm.engine.ports.publisher import (
    Publisher,
)
from fractal_rm.engine.ports.ways_in import (
    Check,
    Intake,
    Taken,
    WayIn,
)

__all__ = [
    "Adopted",
    "Balancer",
    "BrokenRun",
    "Check",
    "Clock",
    "Components",
    "Entry",
    "History",
    "Intake",
    "Journal",
    "KnownPeers",
    "Ledger",
    "Observer",
    "Peers",
    "Prior",
    "Publisher",
    "Random",
    "Recovered",
    "RunDetail",
    "RunPage",
    "RunSummary",
    "Taken",
    "Telemetry",
    "TimedFact",
    "WayIn",
    "Written",
]
