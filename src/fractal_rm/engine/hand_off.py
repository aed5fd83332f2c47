"""Hand off: offer a run to a peer, until it is known which node executes the run.

The protocol and the decisions are in `domain.handoff`. If no answer can show which node executes
the run, an operator decides, or ``after_silence`` in nodes.conf.
"""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import UNSET

from fractal_rm.config.model import Node
from fractal_rm.domain.budget import time_left_ms
from fractal_rm.domain.cancelling import cancelled
from fractal_rm.domain.cause import Cause, Failure
from fractal_rm.domain.facts import Offered, OfferInDoubt, Settled, none_if_unset
from fractal_rm.domain.flow import components_called_by
from fractal_rm.domain.handoff.messages import (
    NoReceipt,
    Offer,
    OfferAnswer,
    OfferRefused,
    OlderNode,
    Receipt,
)
from fractal_rm.domain.handoff.moving import finished_steps
from fractal_rm.domain.handoff.sender import (
    OFFER_TRIES,
    AfterOffer,
    Decision,
    OfferAnew,
    RunHere,
    TryAgain,
    after_answer,
    after_decision,
    after_doubt,
    ask_again,
    before_offer,
    before_repeated_offer,
    placed_here,
    wait_for_node,
)
from fractal_rm.domain.node_description import NodeDescription
from fractal_rm.domain.placement import reason_not_to_offer
from fractal_rm.domain.refusals import OtherBoot
from fractal_rm.domain.run import Run
from fractal_rm.domain.run_id import continuation_of
from fractal_rm.domain.state import OFFERED, Placement, State
from fractal_rm.domain.trace import OFFER, header_for
from fractal_rm.engine.call_gates import CallGates
from fractal_rm.engine.definitions import Definitions
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.peer_descriptions import PeerDescriptions
from fractal_rm.engine.recorder import Recorder

MAX_PAUSE_IN_SLOT_S = 1.0  # before a longer pause, the run releases its slot
_DEADLINE_PASSED = Settled(
    State.EXPIRED, "the deadline passed before the run could be handed off", Cause.DEADLINE
)
_MOVED = (Cause.DRAINED, Cause.RETURNED)
_NOT_OFFERED = Offered("", 0)  # before `_record_offer`


class _OfferProgress(msgspec.Struct):
    """What has happened to the offer of a run so far.

    ``tries`` is the number of offers. ``is_recorded``: the offer is on the disk. ``maybe_taken``:
    the peer may have taken the run, as ``reason`` says.
    """

    tries: int = 0
    is_recorded: bool = False
    maybe_taken: bool = False
    reason: str = ""


class HandOff:
    """Offers runs to peers. The same run is offered again only to a node of this program."""

    def __init__(
        self, dependencies: Dependencies, recorder: Recorder, definitions: Definitions
    ) -> None:
        self._dependencies = dependencies
        self._recorder = recorder
        self._definitions = definitions
        self.gates = CallGates(dependencies.timers, dependencies.clock, dependencies.telemetry)
        self._peers = PeerDescriptions(dependencies)
        self._in_doubt: dict[str, _OfferProgress] = {}  # runs that wait for another turn
        self._decisions: dict[str, tuple[Decision, str]] = {}  # of operators, by run id

    def decide(self, run: Run, decision: Decision, actor: str) -> None:
        """Note what an operator has decided about a run in doubt. Its next turn follows it."""
        self._decisions[run.id] = decision, actor

    async def hand_off(self, run: Run, node_id: str) -> Settled | TryAgain | None:
        """Offer ``run`` to a node. Returns how the run ends; None: the node does not take it.

        Returns TryAgain if the peer may have the run and cannot be asked now. Then call this method
        again in a later turn, so that runs in doubt leave their slots to other runs.
        """
        progress = self._in_doubt.pop(run.id, None)
        if progress is None:  # if the run is offered already, that was before a restart
            is_offered = run.placement in OFFERED
            progress = _OfferProgress(is_recorded=is_offered, maybe_taken=is_offered)
        while True:
            progress.tries += 1
            next_step = self._decided(run, node_id, progress)
            if next_step is None:
                next_step = await self._offer_in_slot(run, node_id, progress)
            if isinstance(next_step, Settled):
                return next_step
            if isinstance(next_step, RunHere):
                self._recorder.record(run, placed_here(next_step, none_if_unset(run.accepted.node)))
                return None
            if isinstance(next_step, OfferAnew):
                progress.is_recorded = progress.maybe_taken = False
                continue
            progress.maybe_taken = progress.maybe_taken or next_step.maybe_taken
            if progress.maybe_taken and (
                progress.tries >= OFFER_TRIES or next_step.after_s > MAX_PAUSE_IN_SLOT_S
            ):
                self._in_doubt[run.id] = progress
                self._record_doubt(run, progress, next_step.reason)
                return next_step
            await asyncio.sleep(next_step.after_s)

    def _decided(
        self, run: Run, node_id: str, progress: _OfferProgress
    ) -> Settled | RunHere | None:
        """The end of the doubt, if an operator has decided about the run."""
        decided = self._decisions.pop(run.id, None)
        if decided is None or not progress.maybe_taken:
            return None
        decision, actor = decided
        return after_decision(decision, node_id, actor)

    def _record_doubt(self, run: Run, progress: _OfferProgress, reason: str) -> None:
        """If the reason has changed, record why it is unknown whether a node has a run."""
        if reason != progress.reason:
            progress.reason = reason
            self._recorder.record(run, OfferInDoubt(reason))
            self._dependencies.telemetry.problem("offer_in_doubt", run=run.id, reason=reason)

    async def _offer_in_slot(self, run: Run, node_id: str, progress: _OfferProgress) -> AfterOffer:
        """Make one offer in a slot of its node. nodes.conf may change before a slot is free."""
        node = self._dependencies.config.nodes.get(node_id)
        if node is None or node.gate is None:
            return await self._offer(run, node_id, progress)
        gate = self.gates.gate(node_id, node.gate)
        left_ms = None if progress.maybe_taken else self._left_ms(run)
        if left_ms is None:
            passage = await gate.enter()
        else:
            try:
                passage = await self._dependencies.timers.within(left_ms, gate.enter())
            except asyncio.TimeoutError:
                return _DEADLINE_PASSED
        try:
            return await self._offer(run, node_id, progress)
        finally:
            gate.leave(passage)

    async def _offer(self, run: Run, node_id: str, progress: _OfferProgress) -> AfterOffer:
        """Make one offer to the address that nodes.conf now has for the node."""
        node = self._dependencies.config.nodes.get(node_id)
        if node is None:
            return self._after_removal(run, node_id, progress)
        if progress.maybe_taken:
            next_step = await self._before_repeated_offer(run, node, progress)
        elif not progress.is_recorded:
            next_step = await self._record_offer(run, node, progress)
        else:
            next_step = None
        if next_step is not None:
            return next_step
        left_ms = self._left_ms(run)
        if left_ms is not None and left_ms <= 0:
            if not progress.maybe_taken:
                return _DEADLINE_PASSED
            left_ms = 1  # the node may have the run, so it must be asked after the deadline, too
        offer = self._offer_of(run, left_ms, maybe_taken=progress.maybe_taken)
        answer = await self._dependencies.peers.offer(
            node, offer, runs_this_program=run.placement is Placement.OFFERED
        )
        return await self._after_answer(answer, run, node, progress)

    def _left_ms(self, run: Run) -> int | None:
        return time_left_ms(run, self._dependencies.clock.steady_ms())

    # --- before an offer --------------------------------------------------------------------------

    async def _record_offer(
        self, run: Run, node: Node, progress: _OfferProgress
    ) -> Settled | TryAgain | RunHere | None:
        """Write that the run is about to be offered, if it may be offered to the peer."""
        peer = await self._peers.of(node)
        is_described = isinstance(peer, NodeDescription)
        if not is_described:  # a fast path: each run may be offered to a node that describes itself
            next_step = before_offer(
                peer, node.id, node.peer, run.flow.id, progress.tries,
                self._dependencies.random.fraction(),
                needs_description=run.cause in _MOVED or run.progress.position > 0,
            )  # fmt: skip
            if next_step is not None:
                return next_step
        left_ms = self._left_ms(run)
        if left_ms is not None and left_ms <= 0:
            return _DEADLINE_PASSED
        if run.cancel is not None:
            return cancelled(run.cancel)
        offered = Offered(
            node.id,
            run.epoch + 1,
            is_described or isinstance(peer, OlderNode),
            store=peer.store if is_described else UNSET,
            boot=peer.boot if is_described else UNSET,
            run=UNSET if run.sender is None else continuation_of(run.id),
        )
        await self._recorder.record_durably(run, offered)
        progress.is_recorded = True
        return None

    async def _before_repeated_offer(
        self, run: Run, node: Node, progress: _OfferProgress
    ) -> Settled | TryAgain | RunHere | None:
        """Return the next step if the run must not be offered again now, otherwise None.

        Another program at the address, such as the original Runtime Manager, would execute the run
        again. So the peer is asked what it is.
        """
        if run.offered is None or not self._can_be_asked(run, node):
            reason = f"the run was offered to node {node.id}, whose answer is not known"
            return self._after_doubt(run, Failure(Cause.PEER_SILENT, reason))
        next_step = before_repeated_offer(
            await self._peers.ask(node),
            run.offered,
            progress.tries,
            self._dependencies.random.fraction(),
        )
        if not isinstance(next_step, Failure):
            return next_step
        if node.peer is None:
            return self._after_doubt(run, next_step)
        return wait_for_node(f"{next_step.reason}, although nodes.conf sets its peer to fractal")

    def _can_be_asked(self, run: Run, node: Node) -> bool:
        """Whether a node knows if it has a run: it ran this program at the first offer.

        A node that began to run this program later does not know its earlier runs.
        """
        return run.placement is Placement.OFFERED and node.peer != "original"

    def _after_removal(
        self, run: Run, node_id: str, progress: _OfferProgress
    ) -> Settled | TryAgain | RunHere:
        """The next step after the node was removed from nodes.conf.

        If a node of this program may have the run, wait until nodes.conf contains the node again.
        """
        failure = Failure(Cause.PEER_GONE, f"nodes.conf no longer has node {node_id}")
        if not progress.maybe_taken:
            return RunHere(failure)
        if run.placement is not Placement.OFFERED:
            return self._after_doubt(run, failure)
        return wait_for_node(failure.reason)

    def _offer_of(self, run: Run, left_ms: int | None, *, maybe_taken: bool) -> Offer:
        offered = run.offered or _NOT_OFFERED
        age_ms = None
        if maybe_taken:
            age_ms = max(self._dependencies.clock.steady_ms() - run.steady_ms, 0)
        return Offer(
            none_if_unset(offered.run) or run.id,
            offered.epoch,
            self._dependencies.node_id,
            run.flow.id,
            run.accepted.payload,
            left_ms,
            header_for(run, self._dependencies.trace_sample, OFFER, offered.epoch),
            definition=self._definitions.of(run.flow),
            origin=run.sender or self._dependencies.node_id,
            store=none_if_unset(offered.store) or "",
            boot=none_if_unset(offered.boot) or "",
            age_ms=age_ms,
            steps=finished_steps(run) if run.progress.position else (),
        )

    # --- after an offer ---------------------------------------------------------------------------

    async def _after_answer(
        self, answer: OfferAnswer, run: Run, node: Node, progress: _OfferProgress
    ) -> AfterOffer:
        if isinstance(answer, Receipt):
            reason = f"node {node.id} has accepted the run"
            return Settled(State.HANDED_OFF, reason, Cause.RECEIPT)
        if not isinstance(answer, OfferRefused) or answer.code == OtherBoot.code:
            self._peers.forget(node)  # it may have started again, or be another program now
        if isinstance(answer, NoReceipt) and node.peer != "fractal":
            return self._accepted_by_plain_peer(run, node)
        fraction = self._dependencies.random.fraction()
        next_step = after_answer(
            answer, node.id, progress.tries, fraction, maybe_taken=progress.maybe_taken
        )
        if not isinstance(next_step, Failure):
            return next_step
        if self._can_be_asked(run, node):
            return ask_again(progress.tries, next_step.reason, fraction)
        return self._after_doubt(run, next_step)

    def _accepted_by_plain_peer(self, run: Run, node: Node) -> Settled | RunHere:
        """The next step after a peer accepted an offer without a receipt: it is a plain peer."""
        if reason_not_to_offer(node.peer, run.flow.id, runs_this_program=False) is None:
            reason = (
                f"node {node.id} answered as a plain peer, which cannot promise that it executes"
                " the run"
            )
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
