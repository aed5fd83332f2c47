"""What a node does with its own runs: place, offer, execute. `engine.hand_off` does the same."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import UNSET

from fractal_rm.domain.cause import Cause, Failure
from fractal_rm.domain.facts import Offered, Placed, Settled, none_if_unset
from fractal_rm.domain.handoff.messages import (
    NoAnswer,
    Offer,
    OfferAnswer,
    OfferRefused,
    PeerKind,
    Receipt,
)
from fractal_rm.domain.handoff.sender import (
    OFFER_TRIES,
    Decision,
    OfferAnew,
    RunHere,
    TryAgain,
    after_decision,
    after_doubt,
    ask_again,
    before_offer,
)
from fractal_rm.domain.node_description import KIND, PROTOCOL, NodeDescription
from fractal_rm.domain.refusals import OtherBoot
from fractal_rm.domain.run_id import continuation_of
from fractal_rm.domain.state import OFFERED, State
from fractal_rm.testing.handoff.placing import Placer, Site, finish, name_of
from fractal_rm.testing.handoff.rules import Rules
from fractal_rm.testing.handoff.runs import DIGEST, FLOW, RunView, after
from fractal_rm.testing.handoff.world import (
    Known,
    Message,
    Move,
    Progress,
    World,
    boot_id,
    drop,
    get,
    put,
    store_id,
)

_AFTER_RESTART = Progress(is_recorded=True, maybe_taken=True)


class Sender:
    """The moves of nodes with the runs that they have."""

    def __init__(self, site: Site, rules: Rules) -> None:
        self._site = site
        self._rules = rules
        self._placer = Placer(site, rules)

    def moves(self, world: World, name: str) -> Iterator[Move]:
        """All moves of one node with its runs, and the faults of its questions to peers."""
        node = world.node(name)
        for run_id, view in node.now:
            if view.state.final:
                continue
            progress = get(node.offering, run_id)
            if run_id in node.executing:
                yield finish(world, name, run_id, view)
            elif progress is None and view.placement in OFFERED:
                yield from self._offer(world, name, run_id, view, _AFTER_RESTART)
            elif progress is None:
                yield self._placer.place(world, name, run_id, view)
            else:
                yield from self._offer(world, name, run_id, view, progress)

    # --- offering ---------------------------------------------------------------------------------

    def _offer(
        self, world: World, name: str, run_id: str, view: RunView, progress: Progress
    ) -> Iterator[Move]:
        if progress.maybe_taken and progress.phase != "wait":
            yield from self._decide(world, name, run_id, view)
        if progress.phase == "send":
            yield self._send(world, name, run_id, view, progress)
        elif progress.phase == "wait":
            yield from self._give_up(world, name, run_id, view)
        elif progress.maybe_taken:
            yield from self._ask_before_repeating(world, name, run_id, view, progress)
        elif progress.is_recorded:
            yield self._send(world, name, run_id, view, progress)
        else:
            yield from self._record(world, name, run_id, view, progress)

    def _record(
        self, world: World, name: str, run_id: str, view: RunView, progress: Progress
    ) -> Iterator[Move]:
        """Ask the peer what it is, if that is not known; then write the offer on the disk."""
        node, peer = world.node(name), _peer(view)
        known = get(node.known, peer)
        if known is None:
            yield from self._ask(world, name, run_id, view, progress)
            return
        offered = Offered(
            peer,
            view.epoch + 1,
            runs_this_program=True,
            store=known.store,
            boot=known.boot,
            run=UNSET if view.sender is None else continuation_of(run_id),
        )
        ready = progress._replace(is_recorded=True, phase="send")
        node = node.with_run(run_id, after(view, run_id, offered), synced=True)
        node = node._replace(offering=put(node.offering, run_id, ready))
        moved = world.with_node(name, node)
        if view.is_returned or (view.sender is not None and peer != view.sender):
            moved = moved._replace(second_hop=True)
        yield Move(f"{name} writes that it offers {name_of(run_id)} to {peer}", moved)

    def _ask(
        self, world: World, name: str, run_id: str, view: RunView, progress: Progress
    ) -> Iterator[Move]:
        """Ask the peer what it is before the first offer."""
        peer = _peer(view)
        for words, kind, asked, is_fault in _answers_of(world, name, peer):
            next_step = before_offer(kind, peer, self._site.peer, FLOW.id, progress.tries, 0.5)
            if next_step is None:
                yield Move(words, asked, is_fault)
            else:
                changed = self._after(asked, name, run_id, progress, next_step)
                yield Move(words, changed, is_fault)

    def _ask_before_repeating(
        self, world: World, name: str, run_id: str, view: RunView, progress: Progress
    ) -> Iterator[Move]:
        peer, offered = _peer(view), view.offered
        if offered is None:
            raise AssertionError(view)
        for words, kind, asked, is_fault in _answers_of(world, name, peer):
            next_step = self._rules.before_repeated_offer(kind, offered, progress.tries, 0.5)
            if next_step is None:
                node = asked.node(name)
                ready = progress._replace(phase="send")
                node = node._replace(offering=put(node.offering, run_id, ready))
                yield Move(words, asked.with_node(name, node), is_fault)
                continue
            if isinstance(next_step, Failure):
                if self._site.peer is None:
                    next_step = self._after_doubt(next_step)
                else:
                    next_step = TryAgain(1, maybe_taken=True)
            yield Move(words, self._after(asked, name, run_id, progress, next_step), is_fault)

    def _after_doubt(self, failure: Failure) -> RunHere | Settled:
        return after_doubt(
            failure, rule=self._site.after_silence, not_idempotent=None, in_time=True
        )

    def _send(
        self, world: World, name: str, run_id: str, view: RunView, progress: Progress
    ) -> Move:
        peer, offered = _peer(view), view.offered
        if offered is None:
            raise AssertionError(view)
        if not world.node(peer).up:
            words = f"{name} cannot reach {peer}"
            answer = NoAnswer("no connection", sent=False)
            return Move(words, self._after_answer(world, name, run_id, view, progress, answer))
        message = Message(
            name,
            peer,
            none_if_unset(offered.run) or run_id,
            offered.epoch,
            none_if_unset(offered.store) or "",
            none_if_unset(offered.boot) or "",
            repeated=progress.maybe_taken,
        )
        node = world.node(name)
        node = node._replace(offering=put(node.offering, run_id, progress._replace(phase="wait")))
        again = " again" if progress.maybe_taken else ""
        words = f"{name} sends offer {offered.epoch} of {name_of(message.run)} to {peer}{again}"
        return Move(words, world.with_node(name, node).sent(message))

    def _give_up(self, world: World, name: str, run_id: str, view: RunView) -> Iterator[Move]:
        """Give up waiting. This is a fault if a message of this offer is on its way."""
        peer = _peer(view)
        offer_run = (none_if_unset(view.offered.run) if view.offered else None) or run_id
        key = offer_run, view.epoch
        is_on_its_way = any((each.run, each.epoch) == key for each in world.net) or any(
            (each.offer.run, each.offer.epoch) == key for each in world.node(peer).taking
        )
        waited = world.after_fault("delays") if is_on_its_way else world
        if waited is None:
            return
        progress = get(world.node(name).offering, run_id) or _AFTER_RESTART
        answer = NoAnswer("no answer within the time limit", sent=True)
        yield Move(
            f"{name} gives up waiting for an answer of {peer}",
            self._after_answer(waited, name, run_id, view, progress, answer),
            is_fault=is_on_its_way,
        )

    # --- answers ----------------------------------------------------------------------------------

    def receive(self, world: World, message: Message) -> World:
        """An answer arrives. If its sender waits for an answer of that peer, it is read.

        It may be late: the answer to an earlier offer of the same run.
        """
        name = message.target
        node = world.node(name)
        for run_id, progress in node.offering:
            view = node.run(run_id)
            if view is None or progress.phase != "wait" or _peer(view) != message.source:
                continue
            offer = _offer_of(view, run_id)
            if offer.run != message.run:
                continue
            if message.status == 200:
                answer = self._rules.read_receipt(message.body, offer)
            else:
                status = message.status
                answer = self._rules.read_refusal(message.body, offer, status, str(status))
            return self._after_answer(world, name, run_id, view, progress, answer)
        return world

    def _after_answer(
        self,
        world: World,
        name: str,
        run_id: str,
        view: RunView,
        progress: Progress,
        answer: OfferAnswer,
    ) -> World:
        if isinstance(answer, Receipt):
            settled = Settled(State.HANDED_OFF, "", Cause.RECEIPT)
            return self._after(world, name, run_id, progress, settled)
        if not isinstance(answer, OfferRefused) or answer.code == OtherBoot.code:
            node = world.node(name)
            world = world.with_node(name, node._replace(known=drop(node.known, _peer(view))))
        next_step = self._rules.after_answer(
            answer, _peer(view), progress.tries, 0.5, maybe_taken=progress.maybe_taken
        )
        if isinstance(next_step, Failure):
            next_step = ask_again(progress.tries, next_step.reason, 0.5)
        return self._after(world, name, run_id, progress, next_step)

    def _decide(self, world: World, name: str, run_id: str, view: RunView) -> Iterator[Move]:
        """An operator decides about a run in doubt."""
        decided = world.after_fault("decisions")
        if decided is None:
            return
        for decision in Decision:
            next_step = after_decision(decision, _peer(view), "an operator")
            changed = self._after(decided, name, run_id, _AFTER_RESTART, next_step)
            yield Move(
                f"an operator decides at {name}: {decision.value}",
                changed._replace(excused=True),
                is_fault=True,
            )

    def _after(
        self,
        world: World,
        name: str,
        run_id: str,
        progress: Progress,
        next_step: Settled | TryAgain | OfferAnew | RunHere,
    ) -> World:
        """Do what a decision says, as the loop in `engine.hand_off` does it."""
        node = world.node(name)
        view = node.run(run_id)
        if view is None:
            raise AssertionError(run_id)
        if isinstance(next_step, Settled):
            node = node.with_run(run_id, after(view, run_id, next_step), synced=True)
        elif isinstance(next_step, RunHere):
            twice = True if next_step.maybe_twice else UNSET
            here = Placed(name, next_step.reason, twice, next_step.failure.cause)
            node = node.with_run(run_id, after(view, run_id, here))
            world = world._replace(excused=world.excused or next_step.maybe_twice)
        else:
            tries = min(progress.tries + 1, OFFER_TRIES)
            if isinstance(next_step, OfferAnew):
                again = Progress(tries)
            else:
                maybe_taken = progress.maybe_taken or next_step.maybe_taken
                again = Progress(tries, progress.is_recorded, maybe_taken)
            return world.with_node(name, node._replace(offering=put(node.offering, run_id, again)))
        return world.with_node(name, node._replace(offering=drop(node.offering, run_id)))


def _answers_of(world: World, name: str, peer: str) -> Iterator[tuple[str, PeerKind, World, bool]]:
    """What a node gets when it asks a peer what it is. A lost question is a fault."""
    node, other = world.node(name), world.node(peer)
    if not other.up:
        forgotten = world.with_node(name, node._replace(known=drop(node.known, peer)))
        yield f"{name} cannot reach {peer}", NoAnswer("no connection", sent=False), forgotten, False
        return
    store, boot = store_id(peer, other), boot_id(peer, other)
    description = NodeDescription(KIND, "", PROTOCOL, peer, store, boot)
    asked = world.with_node(name, node._replace(known=put(node.known, peer, Known(store, boot))))
    yield f"{name} asks {peer} what it is: {store}, {boot}", description, asked, False
    lost = world.after_fault("losses")
    if lost is not None:
        forgotten = lost.with_node(name, node._replace(known=drop(node.known, peer)))
        words = f"{name} asks {peer} what it is, and gets no answer"
        yield words, NoAnswer("no answer", sent=True), forgotten, True


def _offer_of(view: RunView, run_id: str) -> Offer:
    offered = view.offered
    if offered is None:
        raise AssertionError(view)
    return Offer(
        none_if_unset(offered.run) or run_id,
        offered.epoch,
        view.home,
        FLOW.id,
        msgspec.Raw(b"null"),
        definition=DIGEST,
        store=none_if_unset(offered.store) or "",
        boot=none_if_unset(offered.boot) or "",
    )


def _peer(view: RunView) -> str:
    if view.node is None:
        raise AssertionError(view)
    return view.node
