"""All moves of the model: those of the nodes, of the network, and the faults."""

from __future__ import annotations

from collections.abc import Iterator

from fractal_rm.domain.state import State
from fractal_rm.testing.handoff.placing import Site
from fractal_rm.testing.handoff.receiving import OfferReceiver
from fractal_rm.testing.handoff.rules import Rules
from fractal_rm.testing.handoff.runs import FIRST_ID, accepted
from fractal_rm.testing.handoff.sending import Sender
from fractal_rm.testing.handoff.world import Faults, Message, Move, Node, World


def first_world(names: str, faults: Faults) -> World:
    """The first state: node A has accepted the run, and has acknowledged it."""
    runs = ((FIRST_ID, accepted(names[0], FIRST_ID)),)
    first = Node(now=runs, disk=runs)
    nodes = ((name, first if name == names[0] else Node()) for name in names)
    return World(tuple(nodes), (), faults)


class Moves:
    """The moves from each state. ``stays_away``: a node that does not start again after a crash."""

    def __init__(self, site: Site, rules: Rules, stays_away: str = "") -> None:
        self._sender = Sender(site, rules)
        self._receiver = OfferReceiver(rules)
        self._stays_away = stays_away

    def of(self, world: World) -> Iterator[Move]:
        """All moves from a state. None, if the run has ended on all nodes, and no offer is left."""
        if is_over(world):
            return
        for message in dict.fromkeys(world.net):
            yield from self._deliver(world, message)
        for name, node in world.nodes:
            if not node.up:
                yield from self._start(world, name)
                continue
            if node.taking:
                yield self._receiver.write(world, name)
            yield from self._sender.moves(world, name)
            if node.room != "free":
                free = world.with_node(name, node._replace(room="free"))
                yield Move(f"{name} has room again", free)
            if world.faults.total:
                yield from _faults_of(world, name)

    def _deliver(self, world: World, message: Message) -> Iterator[Move]:
        """A message arrives, is lost, or arrives while another copy of it stays on its way."""
        words = _words(message)
        arrived = world.without(message)
        if not world.node(message.target).up:
            yield Move(f"{words} finds that {message.target} is not running", arrived)
            return
        lost = arrived.after_fault("losses")
        if lost is not None:
            yield Move(f"{words} is lost", lost, is_fault=True)
        done, after_it = self._arrive(arrived, message)
        yield Move(f"{words} arrives: {done}", after_it)
        repeated = world.after_fault("repeats")
        if repeated is not None:
            done, after_it = self._arrive(repeated, message)
            yield Move(
                f"{words} arrives, and a copy is on its way: {done}", after_it, is_fault=True
            )

    def _arrive(self, world: World, message: Message) -> tuple[str, World]:
        if message.status == 0:
            return self._receiver.receive(world, message)
        read = self._sender.receive(world, message)
        done = "it reads it" if read is not world else "it does not wait for it"
        return done, read

    def _start(self, world: World, name: str) -> Iterator[Move]:
        if name != self._stays_away:
            node = world.node(name)._replace(up=True)
            yield Move(f"{name} starts again", world.with_node(name, node))


def _faults_of(world: World, name: str) -> Iterator[Move]:
    """The faults of a running node, and the command to drain it."""
    node = world.node(name)
    crashed = world.after_fault("crashes")
    if crashed is not None:
        yield Move(f"{name} is killed", crashed.with_node(name, _ended(node)), is_fault=True)
        if node.now != node.disk or node.taking:
            written = _ended(node._replace(disk=_with_taken(node, name)))
            words = f"{name} is killed after its disk was written"
            yield Move(words, crashed.with_node(name, written), is_fault=True)
    replaced = world.after_fault("stores")
    if replaced is not None:
        ended = _ended(node._replace(disk=(), draining=False, stores=node.stores + 1))
        words = f"{name} is killed, and its state folder is lost"
        had_open_run = any(not view.state.final for _, view in node.now)
        replaced = replaced._replace(lost=world.lost or had_open_run)
        yield Move(words, replaced.with_node(name, ended), is_fault=True)
    full = world.after_fault("full") if node.room == "free" else None
    if full is not None:
        for room in ("queue full", "disk full"):
            words = f"{name} takes no offers for a while: {room}"
            yield Move(words, full.with_node(name, node._replace(room=room)), is_fault=True)
    drained = world.after_fault("drains")
    if drained is not None:
        changed = node._replace(draining=not node.draining)
        words = f"an operator {'drains' if changed.draining else 'ends the drain of'} {name}"
        yield Move(words, drained.with_node(name, changed), is_fault=True)


def _ended(node: Node) -> Node:
    """A node whose process has ended: only its disk is left."""
    return Node(
        up=False,
        starts=node.starts + 1,
        stores=node.stores,
        draining=node.draining,
        now=node.disk,
        disk=node.disk,
    )


def _with_taken(node: Node, name: str) -> tuple[tuple[str, object], ...]:
    """The runs of a node if everything that it has given to its disk was written."""
    for offer, _ in node.taking:
        node = node.with_run(offer.run, accepted(name, offer.run, offer.source, offer.epoch))
    return node.now


def is_over(world: World) -> bool:
    """Whether nothing can change the run any more, and no offer can begin another one."""
    return (
        all(view.state.final for _, node in world.nodes for _, view in node.now)
        and not any(node.taking for _, node in world.nodes)
        and not any(message.status == 0 for message in world.net)
    )


def open_runs(world: World) -> list[str]:
    """The states of the runs that have not ended, for example ``A: offered``."""
    return [
        f"{name}: {view.state.value}"
        for name, node in world.nodes
        for _, view in node.now
        if not view.state.final
    ]


def is_offered(world: World) -> bool:
    """Whether a run is offered, and it is not known whether the peer has it."""
    return any(view.state is State.OFFERED for _, node in world.nodes for _, view in node.now)


def _words(message: Message) -> str:
    if message.status == 0:
        return f"offer {message.epoch} of {message.source} to {message.target}"
    kind = "the receipt" if message.status == 200 else "the refusal"
    return f"{kind} of {message.source} for offer {message.epoch} of {message.target}"
