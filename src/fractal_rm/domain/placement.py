"""Where does a run go, and what follows when a peer does not take it? Plain functions.

balancer says      null, our own id   ──> here
                   a node we know     ──> offer it there
                   anything else      ──> here, and the reason is kept with the run

an offer ends in   a receipt          ──> the peer has it
                   any other 2xx      ──> a plain peer has it
                   a refusal          ──> here, unless it leaves a doubt: see `has_not_taken`
                   never sent         ──> again, then here
                   no answer          ──> again under the same epoch; then see `after_silence`
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Union

import msgspec

OFFER_TRIES = 3
ASK_AGAIN_AT_MOST_S = 30.0


class Here(msgspec.Struct, frozen=True):
    """Run it on this node."""

    reason: str


class There(msgspec.Struct, frozen=True):
    """Offer it to the node with this id."""

    node: str
    reason: str


Place = Union[Here, There]


def decide(answer: str | None, known: Collection[str], own_id: str | None) -> Place:
    """Turn the balancer's answer into a place. ``answer`` is a node's id, or None for here."""
    if answer is None:
        return Here("the balancer said here")
    if answer == own_id:
        return Here(f"the balancer named node {answer}, which is this one")
    if answer not in known:
        return Here(f"the balancer named node {answer!r:.60}, which nodes.conf does not have")
    return There(answer, f"the balancer named node {answer}")


def peer_can_run(peer: str | None, flow_id: str) -> bool:
    """An original finds a flow by the first character of its id, so it runs one-digit ids only."""
    return peer != "original" or len(flow_id) == 1


class Again(msgspec.Struct, frozen=True):
    """Offer once more, under the same epoch, after this many seconds.

    ``silent``: the offer before may have arrived.
    """

    after_s: float
    silent: bool = False


class Home(msgspec.Struct, frozen=True):
    """Give up and run it here."""

    reason: str


def has_not_taken(status: int, *, looked: bool, silent: bool, ours: bool) -> bool:
    """Whether a refusal says that the peer certainly does not hold the run.

    after silence             only what a node of ours says after a look into its journal
    from a node of ours       anything but a fault (5xx) or a time limit (408); 503 is "busy"
    from any other            anything but a gateway's "no answer" (502, 504)
    """
    if silent:
        return looked
    if ours:
        return status == 503 or (status < 500 and status != 408)
    return status not in {502, 504}


def after_unsent(tries: int, node: str, why: str, fraction: float) -> Again | Home:
    """The offer never left: nothing is in doubt. ``fraction`` is the jitter, 0 to 1."""
    if tries < OFFER_TRIES:
        return Again(_backoff(tries, fraction))
    return Home(f"node {node} could not be reached: {why}")


def after_silence(tries: int, node: str, why: str, fraction: float, *, ours: bool) -> Again | Home:
    """The offer may have arrived.

    A peer of ours is asked until it answers: it knows, and a run that it may have must not run
    here too (G4). Of any other peer nothing can be learned by asking, so after the same number of
    tries the run comes home, as nothing may be lost.
    """
    if ours or tries < OFFER_TRIES:
        return Again(_backoff(tries, fraction), silent=True)
    return Home(f"node {node} did not answer: {why}")


def _backoff(tries: int, fraction: float) -> float:
    """From 0.2 s doubling to the bound, half of it jitter, in seconds."""
    full = min(ASK_AGAIN_AT_MOST_S, 0.2 * 2 ** min(tries - 1, 10))
    return full * (0.5 + fraction / 2)
