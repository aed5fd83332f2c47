"""What a node does with an offer. `engine.received_offers` and `engine.accept` do the same."""

from __future__ import annotations

import msgspec

from fractal_rm.domain.handoff.messages import CODE_PREFIX, ReceivedOffer
from fractal_rm.domain.handoff.receiver import Receiver, check_not_own, is_lasting_unread
from fractal_rm.domain.refusals import Busy, JournalUnavailable, Refused
from fractal_rm.testing.handoff.rules import Rules
from fractal_rm.testing.handoff.runs import DIGEST, FLOW, accepted, as_run
from fractal_rm.testing.handoff.world import (
    Message,
    Move,
    Node,
    Taking,
    World,
    boot_id,
    store_id,
)

_REMEMBERS_MS = 1_000_000


class OfferReceiver:
    """The moves of a node with the offers that it gets."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def receive(self, world: World, message: Message) -> tuple[str, World]:
        """An offer arrives. Returns what the node does, in words, and the world after it."""
        name = message.target
        node, offer = world.node(name), _offer(message)
        try:
            if self._has(node, name, offer):
                return f"{name} has the run, and sends the same receipt", world.sent(
                    _receipt(message)
                )
            self._check(node, name, offer)
        except _Answered as answered:
            code = answered.refusal.code
            changed = world.with_node(name, answered.node).sent(_refusal(message, answered.refusal))
            return f"{name} refuses the offer: {code}", changed
        being_written = [each for each in node.taking if _key(each.offer) == _key(message)]
        if being_written:
            words = f"{name} is writing the run already"
            return words, world.with_node(name, _with_one_more_answer(node, being_written[0]))
        taking = Taking(message)
        if not self._rules.receipt_waits_for_disk:
            taking, world = taking._replace(answers=0), world.sent(_receipt(message))
        accepted_keys = node.accepted | {_key(message)}
        node = node._replace(taking=(*node.taking, taking), accepted=accepted_keys)
        return f"{name} accepts offer {message.epoch}", world.with_node(name, node)

    def write(self, world: World, name: str) -> Move:
        """The disk has the runs that a node was about to take. The receipts are sent."""
        node = world.node(name)
        if node.room == "disk full":
            return self._write_fails(world, name)
        messages: list[Message] = []
        for offer, answers in node.taking:
            view = accepted(name, offer.run, offer.source, offer.epoch)
            node = node.with_run(offer.run, view, synced=True)
            messages += [_receipt(offer)] * answers
        changed = world.with_node(name, node._replace(taking=())).sent(*messages)
        return Move(
            f"the disk of {name} has the run; {name} sends {len(messages)} receipt", changed
        )

    def _write_fails(self, world: World, name: str) -> Move:
        node = world.node(name)
        refusals = [
            _refusal(offer, JournalUnavailable("the disk is full"))
            for offer, answers in node.taking
            for _ in range(answers)
        ]
        changed = world.with_node(name, node._replace(taking=())).sent(*refusals)
        return Move(f"{name} cannot write the run, and refuses the offer", changed)

    def _has(self, node: Node, name: str, offer: ReceivedOffer) -> bool:
        """`ReceivedOffers.find`: whether the node has taken the run before."""
        receiver = self._receiver(node, name, offer)
        own = node.run(offer.run)
        has_offered = self._rules.has_offered(None if own is None else as_run(own, offer.run))
        try:
            check_not_own(offer, name, has_offered=has_offered)
        except Refused as refusal:
            raise self._refuse(node, name, offer, refusal) from None
        try:
            if node.room == "disk full":
                raise self._refuse_unread(node, name, offer)
            if node.run(offer.run) is not None:
                return True
            self._rules.check_known(offer, receiver)
        except Refused as refusal:
            raise _Answered(node, refusal) from None
        return False

    def _check(self, node: Node, name: str, offer: ReceivedOffer) -> None:
        """`ReceivedOffers.check`, and the room in the queue."""
        receiver = self._receiver(node, name, offer)
        try:
            if not receiver.has_accepted:
                self._rules.check_offer(offer, receiver, FLOW, DIGEST, FLOW.id)
            if node.room == "queue full":
                raise Busy("the queue is full")
        except Refused as refusal:
            raise self._refuse(node, name, offer, refusal) from None

    def _refuse(self, node: Node, name: str, offer: ReceivedOffer, refusal: Refused) -> _Answered:
        """`ReceivedOffers.refuse`: remember the refusal, and name the offer in it."""
        if self._rules.is_lasting(offer, self._receiver(node, name, offer)):
            refusal.refused_offer = offer.run, offer.epoch
            if offer.boot == boot_id(name, node) and self._rules.refusals_are_remembered:
                node = node._replace(refused=node.refused | {(offer.run, offer.epoch)})
        return _Answered(node, refusal)

    def _refuse_unread(self, node: Node, name: str, offer: ReceivedOffer) -> _Answered:
        """`ReceivedOffers.refuse_unread`: the journal cannot be searched for the run."""
        refusal = JournalUnavailable("the disk is full")
        if is_lasting_unread(offer, self._receiver(node, name, offer)):
            return self._refuse(node, name, offer, refusal)
        return _Answered(node, refusal)

    def _receiver(self, node: Node, name: str, offer: ReceivedOffer) -> Receiver:
        return Receiver(
            node=name,
            store=store_id(name, node),
            boot=boot_id(name, node),
            remembers_ms=_REMEMBERS_MS,
            is_draining=node.draining,
            has_accepted=(offer.run, offer.epoch) in node.accepted,
            has_refused=(offer.run, offer.epoch) in node.refused,
        )


class _Answered(Exception):
    """The offer is refused; ``node`` is the node afterwards."""

    def __init__(self, node: Node, refusal: Refused) -> None:
        super().__init__(refusal.code)
        self.node = node
        self.refusal = refusal


def _offer(message: Message) -> ReceivedOffer:
    return ReceivedOffer(
        message.run,
        message.epoch,
        message.source,
        DIGEST,
        store=message.store,
        boot=message.boot,
        age_ms=1 if message.repeated else None,
    )


def _key(message: Message) -> tuple[str, int]:
    return message.run, message.epoch


def _with_one_more_answer(node: Node, taking: Taking) -> Node:
    more = taking._replace(answers=taking.answers + 1)
    return node._replace(taking=tuple(more if each == taking else each for each in node.taking))


def _receipt(offer: Message) -> Message:
    return _answer(offer, 200, {"run": offer.run, "epoch": offer.epoch, "state": "accepted"})


def _refusal(offer: Message, refusal: Refused) -> Message:
    problem: dict[str, object] = {"type": CODE_PREFIX + refusal.code, "status": refusal.status}
    if refusal.refused_offer is not None:
        problem["run"], problem["epoch"] = refusal.refused_offer
    return _answer(offer, refusal.status, problem)


def _answer(offer: Message, status: int, body: dict[str, object]) -> Message:
    return Message(
        offer.target,
        offer.source,
        offer.run,
        offer.epoch,
        status=status,
        body=msgspec.json.encode(body),
    )
