"""Ports of the ways in: services that receive triggers, such as MQTT, REST and schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from fractal_rm.domain.actions import ActionDone, ActionRequest
from fractal_rm.domain.flow_pause import FlowPause
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.node_description import NodeDescription
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.refusals import Refused
from fractal_rm.domain.run import Outcome
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival


class AcceptedTrigger(msgspec.Struct, frozen=True):
    """The answer to a trigger whose run is durable. ``epoch`` is the epoch of an offer.

    ``duplicate``: the run had been accepted before, for a trigger with the same id.
    """

    run: str
    state: State
    duplicate: bool = False
    epoch: int | None = None


class ReadinessCheck(msgspec.Struct, frozen=True):
    """One check of readiness. ``text`` explains the result to the operator."""

    name: str
    ok: bool
    text: str


class Intake(Protocol):
    """Accepts the triggers of all ways in (MQTT, REST, schedules, hand-offs).

    It also does what operators ask: see `set_draining` and `resolve`.
    """

    async def receive(self, arrival: Arrival) -> AcceptedTrigger:
        """Accept a trigger. It is durable when this method returns. Raises Refused."""
        ...

    async def receive_all(self, arrivals: Sequence[Arrival]) -> list[AcceptedTrigger | Refused]:
        """Accept triggers that came together. They are made durable together.

        Returns one answer or refusal for each trigger, in the same order.
        """
        ...

    async def set_aside(self, arrival: Arrival, refusal: Refused) -> None:
        """Store a message as a dead letter, durably. ``refusal`` is final (`Refused.final`).

        Raises Busy if the dead letter cannot be written now.
        """
        ...

    async def wait_for_room(self) -> None:
        """Return when a trigger that was refused with Busy may be tried again."""
        ...

    async def outcome(self, run_id: str, timeout_s: float) -> Outcome | None:
        """Wait at most ``timeout_s`` for the end of a run. None: it did not end, or is not known.

        Only runs of this process are known. Ended runs are known for a short time.
        """
        ...

    def state_of(self, run_id: str) -> State | None:
        """The state of an open run of this process; None: there is no such run."""
        ...

    def describe(self) -> NodeDescription:
        """What this node says about itself to other machines."""
        ...

    def set_draining(self, draining: bool) -> None:
        """Drain the node, or end that. A drained node refuses triggers and offers.

        Waiting runs are offered to other nodes, and received ones are returned to their senders.
        This node executes the runs that no other node takes.
        """
        ...

    def pause_flows(self, pauses: Mapping[str, FlowPause]) -> None:
        """Let no run of these flows begin. The pauses of all other flows end.

        Triggers of a paused flow are accepted, and their runs wait. Runs that have begun continue.
        """
        ...

    async def act(self, request: ActionRequest) -> ActionDone:
        """Do an action on a run of this process; see the port `Actions`. Raises ActionRefused."""
        ...

    def resolve(self, run_id: str, decision: Decision, actor: str) -> bool:
        """Decide a run that another node may have. False: no such run is in doubt.

        ``actor`` is the name of the operator. The decision is carried out in the run's next turn,
        unless the other node answers before.
        """
        ...

    async def status(self) -> NodeStatus:
        """What this process does now: numbers of runs, by state and by flow, and the checks."""
        ...

    def readiness(self) -> list[ReadinessCheck]:
        """The checks of readiness, also those that are only for information."""
        ...


class WayIn(Protocol):
    """A service that receives triggers and passes them to an `Intake`.

    If the configuration changes, a new way in replaces the open one. ``takes_over``: the new way in
    can start while the old one is open. If it cannot, the old one is stopped first.
    """

    takes_over: bool

    async def start(self, predecessor: WayIn | None = None) -> None:
        """Begin to receive triggers. ``predecessor``: the open way in that this one replaces.

        Raises FractalError if this way in can never start, for example because another program uses
        its port. Then ``predecessor`` stays open.
        """
        ...

    async def stop(self) -> None:
        """Receive no more triggers, answer the received triggers, and release all resources.

        May be called twice.
        """
        ...

    def reconfigured(self) -> None:
        """Called when the configuration has changed, but not the section of this way in."""
        ...

    def status(self) -> ReadinessCheck:
        """Whether this way in can receive triggers now."""
        ...
