"""The state of the model: nodes, messages on their way, and the faults that are still allowed."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeVar

from fractal_rm.testing.handoff.runs import RunView

Value = TypeVar("Value")

Room = Literal["free", "queue full", "disk full"]


class Message(NamedTuple):
    """An offer, or an answer to one. ``status`` is 0 in an offer.

    ``run`` and ``epoch`` identify the offer, and ``store`` and ``boot`` its receiver. ``repeated``:
    the offer has an age (`Offer.age_ms`). ``body`` is the JSON of an answer.
    """

    source: str
    target: str
    run: str
    epoch: int
    store: str = ""
    boot: str = ""
    repeated: bool = False
    status: int = 0
    body: bytes = b""


class Known(NamedTuple):
    """The description of a peer that a node remembers."""

    store: str
    boot: str


class Progress(NamedTuple):
    """What has happened to the offer of a run since the sender started: see `engine.hand_off`.

    ``phase``: the sender decides what to do next, or may send the offer now, or waits for an
    answer.
    """

    tries: int = 1
    is_recorded: bool = False
    maybe_taken: bool = False
    phase: Literal["decide", "send", "wait"] = "decide"


class Taking(NamedTuple):
    """An offer that was accepted, but is not on the disk yet. ``answers``: how many are owed."""

    offer: Message
    answers: int = 1


Runs = tuple[tuple[str, RunView], ...]


class Node(NamedTuple):
    """A node. ``now`` are its runs, and ``disk`` what remains of them after a power loss.

    ``starts`` and ``stores`` are counters, from which the ids of the boot and the store are made.
    The fields from ``refused`` on are lost when the process ends: the offers that it has refused
    and accepted, those that its disk is writing, the descriptions of peers, the progress of offers,
    the nodes that were tried for a run when draining, and the runs that are being executed.
    """

    up: bool = True
    starts: int = 1
    stores: int = 1
    room: Room = "free"
    draining: bool = False
    now: Runs = ()
    disk: Runs = ()
    refused: frozenset[tuple[str, int]] = frozenset()
    accepted: frozenset[tuple[str, int]] = frozenset()
    taking: tuple[Taking, ...] = ()
    known: tuple[tuple[str, Known], ...] = ()
    offering: tuple[tuple[str, Progress], ...] = ()
    tried: tuple[tuple[str, frozenset[str]], ...] = ()
    executing: frozenset[str] = frozenset()

    def run(self, run_id: str) -> RunView | None:
        """The run with this id, or None."""
        return get(self.now, run_id)

    def with_run(self, run_id: str, view: RunView, *, synced: bool = False) -> Node:
        """The node with a changed run. ``synced``: the log of the node is synced, too."""
        now = put(self.now, run_id, view)
        return self._replace(now=now, disk=now if synced else self.disk)


class Faults(NamedTuple):
    """How many faults may still happen: ``total`` in all, and of each kind.

    ``crashes``: kills of a process. ``losses`` of messages, ``repeats``: extra copies of messages,
    ``delays``: a sender gives up waiting although a message is on its way. ``full``: a node takes
    no offers for a while. ``drains``: commands of an operator that drain a node. ``stores``: lost
    state folders. ``decisions`` of an operator about a run in doubt.
    """

    total: int = 0
    crashes: int = 0
    losses: int = 0
    repeats: int = 0
    delays: int = 0
    full: int = 0
    drains: int = 0
    stores: int = 0
    decisions: int = 0


class World(NamedTuple):
    """A state of the model.

    ``begun`` are the nodes that have begun to execute the run. ``finished`` is how often it was
    executed to its end. ``second_hop``: a run was offered that must not be. ``excused``: the run
    may be executed twice, and says so. ``lost``: an open run was in a lost state folder.
    """

    nodes: tuple[tuple[str, Node], ...]
    net: tuple[Message, ...]
    faults: Faults
    begun: frozenset[str] = frozenset()
    finished: int = 0
    second_hop: bool = False
    excused: bool = False
    lost: bool = False

    def node(self, name: str) -> Node:
        """The node with this name."""
        found = get(self.nodes, name)
        if found is None:
            raise KeyError(name)
        return found

    def with_node(self, name: str, node: Node) -> World:
        """The world with a changed node."""
        return self._replace(nodes=put(self.nodes, name, node))

    def sent(self, *messages: Message) -> World:
        """The world with messages on their way."""
        return self._replace(net=tuple(sorted((*self.net, *messages))))

    def without(self, message: Message) -> World:
        """The world without one copy of a message."""
        at = self.net.index(message)
        return self._replace(net=self.net[:at] + self.net[at + 1 :])

    def after_fault(self, kind: str) -> World | None:
        """The world in which one more fault has happened. None: no more are allowed."""
        faults = self.faults
        left = getattr(faults, kind) if faults.total else 0
        if not left:
            return None
        return self._replace(faults=faults._replace(total=faults.total - 1, **{kind: left - 1}))


class Move(NamedTuple):
    """A step of the model, in words. ``is_fault``: it need not happen."""

    words: str
    world: World
    is_fault: bool = False


def store_id(name: str, node: Node) -> str:
    """The id of the state folder of a node."""
    return f"store {name}{node.stores}"


def boot_id(name: str, node: Node) -> str:
    """The id of this start of a node."""
    return f"boot {name}{node.starts}"


def get(pairs: tuple[tuple[str, Value], ...], key: str) -> Value | None:
    """The value of a key in sorted pairs, or None."""
    for name, value in pairs:
        if name == key:
            return value
    return None


def put(
    pairs: tuple[tuple[str, Value], ...], key: str, value: Value
) -> tuple[tuple[str, Value], ...]:
    """Sorted pairs with another value of a key."""
    for at, (name, _) in enumerate(pairs):
        if name == key:
            return (*pairs[:at], (key, value), *pairs[at + 1 :])
    return tuple(sorted((*pairs, (key, value)), key=lambda pair: pair[0]))


def drop(pairs: tuple[tuple[str, Value], ...], key: str) -> tuple[tuple[str, Value], ...]:
    """Sorted pairs without a key."""
    return tuple(pair for pair in pairs if pair[0] != key)
