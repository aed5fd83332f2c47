"""Hand off: offer a run to a peer, until it is known which node executes the run.

The protocol and the decisions are in `domain.handoff`. If no answer can show which node executes
the run, ``after_silence`` in nodes.conf decides: the run ends as unknown, or is executed here.
"""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import UNSET

from fractal_rm.config.model import Node
from fractal_rm.domain.budget import time_left_ms
from fractal_rm.domain.cause import Cause, Failure
from fractal_rm.domain.facts import Offered, Placed, Settled, none_if_unset
from fractal_rm.domain.flow import components_called_by
from fractal_rm.domain.handoff import (
    OFFER_TRIES,
    Decision,
    NoAnswer,
    NoReceipt,
    Offer,
    OfferAnswer,
    Receipt,
    RunHere,
    TryAgain,
    after_answer,
    after_doubt,
    ask_again,
    status_of,
    wait_for_node,
)
from fractal_rm.domain.placement import reason_not_to_offer
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import OFFERED, Placement, State
from fractal_rm.engine.call_slots import TargetSlots
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.recorder import Recorder

MAX_PAUSE_IN_SLOT_S = 1.0  # before a longer pause, the run releases its slot
_DEADLINE_PASSED = Settled(
    State.EXPIRED, "the deadline passed before the run could be handed off", Cause.DEADLINE
)


class _OfferProgress(msgspec.Struct):
    """The number of offers of a run, and the last logged reason why the run is in doubt."""

    tries: int = 0
    logged_reason: str = ""


class HandOff:
    """Offers runs to peers. The same run is offered again only to a node of this program.

    nodes.conf, or a receipt of the peer, shows that a peer runs this program. Before the second
    offer of a run, the peer must be recognized again.
    """

    def __init__(self, dependencies: Dependencies, recorder: Recorder) -> None:
        self._dependencies = dependencies
        self._recorder = recorder
        self._slots = TargetSlots()
        self._in_doubt: dict[str, _OfferProgress] = {}  # runs that wait for another turn
        self._decided: dict[str, tuple[Decision, str]] = {}  # by an operator, with the name

    def decide(self, run: Run, decision: Decision, actor: str) -> None:
        """Let an operator decide a run in doubt. It takes effect before the next offer."""
        self._decided[run.id] = decision, actor

    async def hand_off(self, run: Run, node_id: str) -> Settled | TryAgain | None:
        """Offer ``run`` to a node. Returns how the run ends; None: this node must execute it.

        Returns TryAgain if the peer may have the run and cannot be asked now. Then call this method
        again in a later turn, so that runs in doubt leave their slots to other runs.
        """
        progress = self._in_doubt.pop(run.id, None) or _OfferProgress()
        # Whether the run was offered in an earlier turn, or before a crash.
        maybe_taken = run.placement in OFFERED
        while True:
            if run.id in self._decided:
                return self._apply_decision(run, *self._decided.pop(run.id))
            progress.tries += 1
            next_step = await self._offer_in_slot(
                run, node_id, progress.tries, maybe_taken=maybe_taken
            )
            if isinstance(next_step, Settled):
                return next_step
            if isinstance(next_step, RunHere):
                self._recorder.record(run, _placed_here(run, next_step))
                return None
            maybe_taken = maybe_taken or next_step.maybe_taken
            if maybe_taken and (
                progress.tries >= OFFER_TRIES or next_step.after_s > MAX_PAUSE_IN_SLOT_S
            ):
                self._in_doubt[run.id] = progress
                self._log_doubt(run, progress, next_step.reason)
                return next_step
            await asyncio.sleep(next_step.after_s)

    def _apply_decision(self, run: Run, decision: Decision, actor: str) -> Settled | None:
        if decision is Decision.TAKEN:
            reason = f"{actor} has decided that node {run.node} has the run"
            return Settled(State.HANDED_OFF, reason, Cause.OTHER, actor=actor)
        reason = f"{actor} has decided that the run is executed here"
        placed = Placed(none_if_unset(run.accepted.node), reason, True, Cause.OTHER, actor=actor)
        self._recorder.record(run, placed)
        return None

    def _log_doubt(self, run: Run, progress: _OfferProgress, reason: str) -> None:
        """If the reason has changed, log why it is unknown whether a node has a run."""
        if reason != progress.logged_reason:
            progress.logged_reason = reason
            self._dependencies.telemetry.problem("offer_in_doubt", run=run.id, reason=reason)

    async def _offer_in_slot(
        self, run: Run, node_id: str, tries: int, *, maybe_taken: bool
    ) -> Settled | TryAgain | RunHere:
        """Make one offer in a slot of its node. nodes.conf may change before a slot is free."""
        next_step = self._check_offer(run, node_id, maybe_taken=maybe_taken)
        if next_step is not None:
            return next_step
        slot = self._slots.slot(node_id, self._dependencies.config.nodes[node_id].limit)
        if slot is None:
            return await self._offer(run, node_id, tries, maybe_taken=maybe_taken)
        left_ms = None if maybe_taken else self._left_ms(run)
        if left_ms is None:
            await slot.acquire()
        else:
            try:
                await self._dependencies.timers.within(left_ms, slot.acquire())
            except asyncio.TimeoutError:
                return _DEADLINE_PASSED
        try:
            return await self._offer(run, node_id, tries, maybe_taken=maybe_taken)
        finally:
            slot.release()

    async def _offer(
        self, run: Run, node_id: str, tries: int, *, maybe_taken: bool
    ) -> Settled | TryAgain | RunHere:
        """Make one offer to the address that nodes.conf now has for the node."""
        next_step = self._check_offer(run, node_id, maybe_taken=maybe_taken)
        if next_step is not None:
            return next_step
        node = self._dependencies.config.nodes[node_id]
        if maybe_taken:
            next_step = await self._check_recognized(run, node, tries)
            if next_step is not None:
                return next_step
        runs_this_program = maybe_taken or self._dependencies.is_known_peer(node)
        left_ms = self._left_ms(run)
        if left_ms is not None and left_ms <= 0:
            if not maybe_taken:
                return _DEADLINE_PASSED
            left_ms = 1  # the node may have the run, so it must be asked after the deadline, too
        if run.placement not in OFFERED:
            offered = Offered(node.id, run.epoch + 1, runs_this_program)
            await self._recorder.record_durably(run, offered)
        offer = _offer_of(run, self._dependencies.node_id, left_ms)
        answer = await self._dependencies.peers.offer(
            node, offer, runs_this_program=runs_this_program
        )
        return await self._after_answer(answer, run, node, tries, maybe_taken=maybe_taken)

    def _can_be_asked(self, run: Run, node: Node) -> bool:
        """Whether a node knows if it has a run: it ran this program at the first offer.

        A node that began to run this program later does not know its earlier runs.
        """
        return run.placement is Placement.OFFERED and node.peer != "original"

    def _left_ms(self, run: Run) -> int | None:
        return time_left_ms(run, self._dependencies.clock.steady_ms())

    # --- before an offer --------------------------------------------------------------------------

    def _check_offer(
        self, run: Run, node_id: str, *, maybe_taken: bool
    ) -> Settled | TryAgain | RunHere | None:
        """Return the next step if the run must not be offered to the node, otherwise None."""
        node = self._dependencies.config.nodes.get(node_id)
        if node is None:
            return self._after_removal(run, node_id, maybe_taken=maybe_taken)
        if maybe_taken and not self._can_be_asked(run, node):
            reason = f"the run was offered to node {node.id}, whose answer is not known"
            return self._after_doubt(run, Failure(Cause.PEER_SILENT, reason))
        return None

    def _after_removal(
        self, run: Run, node_id: str, *, maybe_taken: bool
    ) -> Settled | TryAgain | RunHere:
        """The next step after the node was removed from nodes.conf.

        If a node of this program may have the run, wait until nodes.conf contains the node again.
        """
        failure = Failure(Cause.PEER_GONE, f"nodes.conf no longer has node {node_id}")
        if not maybe_taken:
            return RunHere(failure)
        if run.placement is not Placement.OFFERED:
            return self._after_doubt(run, failure)
        return wait_for_node(failure.reason)

    async def _check_recognized(
        self, run: Run, node: Node, tries: int
    ) -> Settled | TryAgain | RunHere | None:
        """Return the next step if the peer is not recognized; None: the peer runs this program.

        Another program at the address, such as the original Runtime Manager, would execute the run
        again.
        """
        recognized = await self._dependencies.peers.recognize(node)
        if isinstance(recognized, NoAnswer):
            reason = (
                f"node {node.id} may have the run, but did not identify itself: {recognized.reason}"
            )
            return ask_again(tries, reason, self._dependencies.random.fraction())
        if recognized:
            return None
        reason = f"the run was offered to node {node.id}, where no node of this program answers now"
        if node.peer is None:
            await self._dependencies.forget_peer(node)
            return self._after_doubt(run, Failure(Cause.PEER_REPLACED, reason))
        return wait_for_node(f"{reason}, although nodes.conf sets its peer to fractal")

    # --- after an offer ---------------------------------------------------------------------------

    async def _after_answer(
        self, answer: OfferAnswer, run: Run, node: Node, tries: int, *, maybe_taken: bool
    ) -> Settled | TryAgain | RunHere:
        if isinstance(answer, Receipt):
            await self._dependencies.remember_peer(node)
            return Settled(State.HANDED_OFF, f"node {node.id} has accepted the run", Cause.RECEIPT)
        if isinstance(answer, NoReceipt) and node.peer != "fractal":
            return await self._accepted_by_plain_peer(run, node)
        fraction = self._dependencies.random.fraction()
        next_step = after_answer(answer, node.id, tries, fraction, maybe_taken=maybe_taken)
        if not isinstance(next_step, Failure):
            return next_step
        if self._can_be_asked(run, node):
            return ask_again(tries, next_step.reason, fraction)
        return self._after_doubt(run, next_step)

    async def _accepted_by_plain_peer(self, run: Run, node: Node) -> Settled | RunHere:
        """The next step after a peer accepted an offer without a receipt.

        The peer does not run this program, so its earlier receipts are forgotten.
        """
        await self._dependencies.forget_peer(node)
        if reason_not_to_offer(node.peer, run.flow.id, runs_this_program=False) is None:
            reason = f"node {node.id} answered as a plain peer"
            return Settled(State.HANDED_OFF, reason, Cause.PLAIN_PEER)
        reason = (
            f"node {node.id} gave no receipt, and the original Runtime Manager cannot run flow"
            f" {run.flow.id}"
        )
        return self._after_doubt(run, Failure(Cause.NO_RECEIPT, reason))

    def _after_doubt(self, run: Run, failure: Failure) -> Settled | RunHere:
        """The next step if a peer may have executed the run, and cannot tell whether it did."""
        node = self._dependencies.config.nodes.get(run.node or "")
        left_ms = self._left_ms(run)
        next_step = after_doubt(
            failure,
            rule=node.after_silence if node is not None else None,
            not_idempotent=self._non_idempotent_component(run),
            in_time=left_ms is None or left_ms > 0,
        )
        self._dependencies.telemetry.problem("offer_in_doubt", run=run.id, reason=next_step.reason)
        return next_step

    def _non_idempotent_component(self, run: Run) -> str | None:
        """The first component of the flow that is not idempotent, or not configured. Or None."""
        config = self._dependencies.config
        for name in sorted(components_called_by(run.flow, config.flows)):
            component = config.components.get(name)
            if component is None or not component.idempotent:
                return name
        return None


def _offer_of(run: Run, sender: str, left_ms: int | None) -> Offer:
    trace = none_if_unset(run.accepted.traceparent)
    return Offer(run.id, run.epoch, sender, run.flow.id, run.accepted.payload, left_ms, trace)


def _placed_here(run: Run, next_step: RunHere) -> Placed:
    return Placed(
        none_if_unset(run.accepted.node),
        next_step.reason,
        True if next_step.maybe_twice else UNSET,
        next_step.failure.cause,
        status=status_of(next_step.failure),
    )
