"""The dependencies of the engine: the current configuration, and the ports."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from fractal_rm.config.model import Config
from fractal_rm.domain.admission import Limits
from fractal_rm.domain.run_id import RunIds
from fractal_rm.engine.observers import Observers
from fractal_rm.engine.ports import (
    Balancer,
    Clock,
    Components,
    Counting,
    Journal,
    PastRuns,
    Peers,
    Publisher,
    Random,
    Telemetry,
)
from fractal_rm.engine.timers import Timers


def no_past_runs() -> PastRuns:
    """Raise an error: this engine cannot read ended runs."""
    raise NotImplementedError("this engine has no history")


def _no_trace(_run_id: str) -> None:
    return None


@dataclass(slots=True)
class Dependencies:
    """The current configuration, which `apply_config` replaces, and the ports, which never change.

    ``node_id`` is the configured id of this node. If no id is configured, it is the result of
    ``stored_id``, which is called when the journal is open, and may raise FractalError. So is
    ``stored_store_id``, whose result is the id of the state folder (`domain.handoff`).
    ``connections`` is the maximum number of connections for calls. ``journal_name`` is the name of
    the journal in the state folder. ``started_ms`` is when this object was made (wall clock).
    ``make_balancer`` returns the balancer of a configuration, or None. ``observers`` are called
    with every written fact; more can be added at any time. ``make_past_runs`` returns what reads
    ended runs; it is called at the first action on such a run. ``counting`` is shared with the
    journal and MQTT. ``set_log_level`` sets the level of the log, and returns it; it may raise
    UnknownLogLevel. ``trace_of`` returns the trace id of an open run by its id, or None. ``ids``
    makes the ids of runs. ``not_applied`` says why changed files are not in force; empty if they
    are, or if the node has not read them yet.
    """

    config: Config
    journal: Journal
    components: Components
    peers: Peers
    make_balancer: Callable[[Config], Balancer | None]
    publisher: Publisher
    clock: Clock
    random: Random
    telemetry: Telemetry
    stored_id: Callable[[], str]
    stored_store_id: Callable[[], str]
    observers: Observers
    connections: int = sys.maxsize
    journal_name: str = "up"
    make_past_runs: Callable[[], PastRuns] = no_past_runs
    counting: Counting = field(default_factory=Counting)
    set_log_level: Callable[[str], str] = str
    not_applied: tuple[str, ...] = ()
    trace_of: Callable[[str], str | None] = _no_trace
    started_ms: int = field(init=False)
    node_id: str = field(init=False, default="")
    store_id: str = field(init=False, default="")
    balancer: Balancer | None = field(init=False, default=None)
    timers: Timers = field(init=False)
    ids: RunIds = field(init=False)

    def __post_init__(self) -> None:
        self.started_ms = self.clock.now_ms()
        self.timers = Timers(self.clock)
        self.ids = RunIds(self.random.token)

    def apply_config(self, config: Config) -> None:
        """Replace the configuration. If this raises FractalError, the previous one stays."""
        self.node_id = config.node_id or self.stored_id()
        self.store_id = self.store_id or self.stored_store_id()
        self.balancer = self.make_balancer(config)
        self.config = config

    def limits(self) -> Limits:
        """The limits of admission in the current configuration."""
        return self.config.bounds.admission_limits(self.connections)

    @property
    def trace_sample(self) -> float | None:
        """The share of the traces that are exported; None: traces are not configured."""
        return None if self.config.traces is None else self.config.traces.sample
