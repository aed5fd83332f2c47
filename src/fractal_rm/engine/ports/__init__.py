"""The ports: protocols of the objects that the engine needs from outside.

Each port has a real adapter and a fake for tests. Both pass the conformance suite in
``fractal_rm.testing``.
"""

from fractal_rm.domain.call import HttpCaller as Components
from fractal_rm.engine.ports.access import Authenticator, Sessions
from fractal_rm.engine.ports.counting import Counting, TriggerAnswer, WrittenFact
from fractal_rm.engine.ports.environment import (
    Clock,
    Random,
    Telemetry,
)
from fractal_rm.engine.ports.history import (
    EVERY_RUN,
    Count,
    FailureGroup,
    Failures,
    FlowCounts,
    Found,
    Handled,
    History,
    Minute,
    PastRuns,
    RunDetail,
    RunOutline,
    RunPage,
    RunSummary,
    TimedFact,
    WrongCursor,
)
from fractal_rm.engine.ports.journal import (
    AcceptFuture,
    Adopted,
    BrokenRun,
    ExistingRun,
    Journal,
    JournalSizes,
    NewRun,
    Recovered,
)
from fractal_rm.engine.ports.observer import Observer
from fractal_rm.engine.ports.pairing import PairingHost
from fractal_rm.engine.ports.peers import (
    Balancer,
    Peers,
)
from fractal_rm.engine.ports.publisher import (
    Publisher,
)
from fractal_rm.engine.ports.ways_in import (
    AcceptedTrigger,
    Intake,
    ReadinessCheck,
    WayIn,
)

__all__ = [
    "EVERY_RUN",
    "AcceptFuture",
    "AcceptedTrigger",
    "Adopted",
    "Authenticator",
    "Balancer",
    "BrokenRun",
    "Clock",
    "Components",
    "Count",
    "Counting",
    "ExistingRun",
    "FailureGroup",
    "Failures",
    "FlowCounts",
    "Found",
    "Handled",
    "History",
    "Intake",
    "Journal",
    "JournalSizes",
    "Minute",
    "NewRun",
    "Observer",
    "PairingHost",
    "PastRuns",
    "Peers",
    "Publisher",
    "Random",
    "ReadinessCheck",
    "Recovered",
    "RunDetail",
    "RunOutline",
    "RunPage",
    "RunSummary",
    "Sessions",
    "Telemetry",
    "TimedFact",
    "TriggerAnswer",
    "WayIn",
    "WrittenFact",
    "WrongCursor",
]
