"""Where does a run go, and what follows when a peer does not take it? Plain functions.

balancer says      null, our own id   ──> here
                   a node we know     ──> offer it there
                   anything else      ──> here, and the reason is kept with the run

an offer ends in   a receipt          ──> the peer has it
                   any other 2xx      ──> a plain peer has it
                   a refusal          ──> here, unless it leaves a doubt: see `has_not_taken`
                   never sent         ──> again, then here
                   a doubt            ──> what shows that it is a node of this program is offered
                                          it again, under the same epoch, until it answers; any
                                          other peer never is: see `after_doubt`
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.domain.cause import Cause, Failure
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.state import State

OFFER_TRIES = 3
MOST_NAMED = 200  # characters of a node that nodes.conf does not have
ASK_AGAIN_AT_MOST_S = 30.0


class Here(msgspec.Struct, frozen=True):
    """Run it on this node. ``named``: the node that the balancer named instead."""

    reason: str
    cause: Cause
    named: str | UnsetType = UNSET


class There(msgspec.Struct, frozen=True):
    """Offer it to the node with this id."""

    node: str
    reason: str


Place = Union[Here, There]
_SAID_HERE = Here("the balancer said here", Cause.BALANCER)


def decide(answer: str | None, known: Collection[str], own_id: str | None) -> Place:
    """Turn the balancer's answer into a place. ``answer`` is a node's id, or None for here."""
    if answer is None:
        return _SAID_HERE
    if answer == own_id:
        why = f"the balancer named node {answer}, which is this one"
        return Here(why, Cause.BALANCER, answer)
    if answer not in known:
        why = f"the balancer named node {answer!r:.60}, which nodes.conf does not have"
        return Here(why, Cause.UNKNOWN_NODE, answer[:MOST_NAMED])
    return There(answer, f"the balancer named node {answer}")


def cannot_run(peer: str | None, flow_id: str, *, ours: bool) -> str | None:
    """Why a flow is not handed to a peer, or None. ``peer`` is what nodes.conf says that it is.

    An original finds a flow by the first character of its id, and answers 200 where it finds none.
    What is not known to be ours may be one.
    """
    if ours or len(flow_id) == 1:
        return None
    if peer == "original":
        return f"is an original, which cannot run flow {flow_id}"
    return f"is unknown (nodes.conf says no peer), and an original cannot run flow {flow_id}"


class AfterSilence(str, Enum):
    """What nodes.conf chooses where a plain peer may have executed a run and does not say so."""

    RUN_HERE = "run-here"
    UNKNOWN = "unknown"


class Again(msgspec.Struct, frozen=True):
    """Offer once more, under the same epoch, after this many seconds.

    ``silent``: the offer before may have arrived; ``reason`` is why that is not known.
    """

    after_s: float
    silent: bool = False
    reason: str = ""


class Home(msgspec.Struct, frozen=True):
    """Give up and run it here. ``maybe_twice``: the peer may execute it as well."""

    why: Failure
    maybe_twice: bool = False

    @property
    def reason(self) -> str:
        """In words for people."""
        return self.why.reason


def has_not_taken(status: int, *, looked: bool, silent: bool) -> bool:
    """Whether a refusal says that the peer certainly does not hold the run.

    After silence only what a node of ours says after a look into its journal does. Else it is
    anything but a time limit (408) and a fault (5xx): an original answers 500 where a flow broke
    in the middle, and a gateway 502 or 504 where it lost sight of the peer. 503 is "busy".
    """
    if silent:
        return looked
    return status == 503 or (status < 500 and status != 408)


def after_unsent(tries: int, node: str, why: str, fraction: float) -> Again | Home:
    """The offer never left: nothing is in doubt. ``fraction`` is the jitter, 0 to 1."""
    if tries < OFFER_TRIES:
        return Again(_backoff(tries, fraction))
    return Home(Failure(Cause.PEER_UNREACHABLE, f"node {node} could not be reached: {why}"))


def ask_again(tries: int, why: str, fraction: float) -> Again:
    """A node of this program may have the run: it knows, and it must not run here too (G4)."""
    return Again(_backoff(tries, fraction), silent=True, reason=why)


def after_doubt(
    why: Failure, *, rule: AfterSilence | None, once_only: str | None, in_time: bool
) -> Home | Settled:
    """Any other peer may have executed the run. Asked again it might execute it again.

    ``rule`` is what nodes.conf chooses. Without one it depends on ``once_only``: a component of
    the flow that must not be called twice. ``in_time``: the run is still worth something.
    """
    doubt = f"{why.reason}; it may have been executed there"
    if rule is AfterSilence.UNKNOWN:
        return _in_doubt(why, f"{doubt}, and after_silence is unknown")
    if not in_time:
        return _in_doubt(why, f"{doubt}, and its time has ended")
    if rule is None and once_only is not None:
        return _in_doubt(why, f"{doubt}, and component {once_only} is not idempotent")
    return Home(Failure(why.cause, f"{doubt} too", why.answer), maybe_twice=True)


def _in_doubt(why: Failure, reason: str) -> Settled:
    return Settled(State.UNKNOWN, reason, why.cause, status_of(why))


def status_of(why: Failure) -> int | UnsetType:
    """What the peer answered, where it did."""
    return UNSET if why.answer is UNSET else why.answer.status


def _backoff(tries: int, fraction: float) -> float:
    """From 0.2 s doubling to the bound, half of it jitter, in seconds."""
    full = min(ASK_AGAIN_AT_MOST_S, 0.2 * 2 ** min(tries - 1, 10))
    return full * (0.5 + fraction / 2)
