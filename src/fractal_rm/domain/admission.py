"""May this trigger come in, and may this run begin? Plain functions; the engine obeys."""

from __future__ import annotations

import msgspec

from fractal_rm.domain.errors import Busy, KeyReused

# A flow may hold at most this many times as many slots as are free. Alone it gets 8/9 of the node,
# beside another hog each gets 8/17: a flow whose component is slow leaves something to the others.
# (Dynamic thresholds: Choudhury and Hahne, 1998.)
SHARE = 8


class Load(msgspec.Struct):
    """What a node has taken on: runs that wait and runs in flight.

    ``held_bytes`` are the payloads of both, ``result_bytes`` what has come to those in flight.
    """

    waiting: int = 0
    in_flight: int = 0
    held_bytes: int = 0
    result_bytes: int = 0


class Limits(msgspec.Struct, frozen=True):
    """The bounds of `Load` (G5). ``held_bytes`` bounds payloads, and results once more."""

    waiting: int = 100_000
    in_flight: int = 1_000
    held_bytes: int = 256 * 1024 * 1024


def check_room(load: Load, limits: Limits, size: int) -> None:
    """Raise Busy where one more trigger of ``size`` bytes would go over a bound."""
    if load.waiting >= limits.waiting:
        raise Busy(f"{load.waiting} runs wait, and at most {limits.waiting} may")
    if load.held_bytes + size > limits.held_bytes:
        raise Busy(f"unfinished runs hold {load.held_bytes} bytes of {limits.held_bytes}")


def may_begin(of_flow: int, load: Load, limits: Limits) -> bool:
    """Whether a flow that has ``of_flow`` runs in flight may begin another.

    Where results fill the memory, those in flight end first.
    """
    if load.in_flight and load.result_bytes >= limits.held_bytes:
        return False
    free = limits.in_flight - load.in_flight
    if of_flow == 0:
        return free > 0
    return free > 1 and of_flow < SHARE * free  # the last slot is for a flow that has none


def same_trigger(run_id: str, known_digest: str, digest: str) -> None:
    """Raise KeyReused where a known trigger id comes with other content (G3)."""
    if known_digest != digest:
        raise KeyReused(f"it belongs to run {run_id}, which was asked for with other content")


def is_last_attempt(attempt: int, max_attempts: int) -> bool:
    """Whether a run that ends the process once more will be set aside."""
    return attempt >= max_attempts


def too_old(accepted_ms: int, now_ms: int, max_age_s: int) -> bool:
    """Whether a run found at start is too old to be run unasked: it may move a machine."""
    return now_ms - accepted_ms > max_age_s * 1000
