"""Decide what this node takes on: which triggers it accepts, which runs begin. Plain functions."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.evaluation_context import decode_value, encode_value, pick
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.json_equal import canonical
from fractal_rm.domain.refusals import Busy, KeyReused
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.domain.value_budget import MAX_VALUES, ValueBudget

# A flow may hold at most this many times the free slots. Alone, a busy flow gets 8/9 of the slots;
# two busy flows get 8/17 each. So a flow with a slow component leaves slots to the others.
# (Dynamic thresholds: Choudhury and Hahne, 1998.)
MAX_SHARE_OF_FREE = 8
# Every n-th turn is not given by priority, so that no run waits for ever behind others.
FAIR_TURN = 8


@dataclass(slots=True)
class Load:
    """How many runs wait and are in flight on this node, and the memory that they hold.

    ``held_bytes``: payloads of all of them. ``result_bytes``: results of those in flight.
    """

    waiting: int = 0
    in_flight: int = 0
    payload_bytes: int = 0
    result_bytes: int = 0


class Limits(msgspec.Struct, frozen=True):
    """The bounds of `Load`. ``held_bytes`` bounds the payloads, and separately the results.

    ``evaluated_values``: LATEST does not apply to a payload with more values.
    """

    waiting: int = 100_000
    in_flight: int = 1_000
    memory_bytes: int = 256 * 1024 * 1024
    evaluated_values: int = MAX_VALUES


def check_room(load: Load, limits: Limits, size: int) -> None:
    """Raise Busy if one more trigger of ``size`` bytes would go over a bound."""
    if load.waiting >= limits.waiting:
        raise Busy(f"{load.waiting} runs wait, and at most {limits.waiting} may")
    if load.payload_bytes + size > limits.memory_bytes:
        raise Busy(f"unfinished runs hold {load.payload_bytes} bytes of {limits.memory_bytes}")


def may_begin(flow_in_flight: int, load: Load, limits: Limits) -> bool:
    """Whether a flow that has ``of_flow`` runs in flight may begin another.

    While the results of runs in flight fill the memory, no other run begins.
    """
    if load.in_flight and load.result_bytes >= limits.memory_bytes:
        return False
    free = limits.in_flight - load.in_flight
    if flow_in_flight == 0:
        return free > 0
    return (
        free > 1 and flow_in_flight < MAX_SHARE_OF_FREE * free
    )  # the last slot is for a flow without runs in flight


def is_within_limit(limit: int | None, begun: int) -> bool:
    """Whether LIMIT lets a flow begin one more run when ``begun`` runs have not ended."""
    return limit is None or begun < limit


def latest_key(
    flow_id: str, latest: str | None, payload: msgspec.Raw, max_values: int = MAX_VALUES
) -> str | None:
    """A key that is equal for runs of a flow for which LATEST picks the same from their payloads.

    None if the flow has no LATEST, or if it picks null or fails: then no run supersedes this one.
    """
    if latest is None:
        return None
    try:
        values = ValueBudget(max_values)
        picked = pick(latest, decode_value(payload, "payload", values), "LATEST", values)
        same = None if picked is None else encode_value(canonical(picked), in_order=True)
    except (CannotEvaluate, RecursionError):  # an older release may have taken it
        return None
    return None if same is None else f"{flow_id}\0{latest}\0{same.decode()}"


def is_stale(run: Run, steady_ms: int) -> bool:
    """Whether a run that has not begun has waited longer than STALE allows."""
    queueing = run.flow.queueing
    if queueing is msgspec.UNSET or queueing.stale_ms is None or run.has_begun:
        return False
    return steady_ms - run.steady_ms >= queueing.stale_ms


def superseded_by(newer: str) -> Settled:
    """The end of a run that a newer one replaces before it began (LATEST)."""
    return Settled(State.SUPERSEDED, f"run {newer} is newer, and about the same", Cause.SUPERSEDED)


def expired_as_stale(stale_ms: int) -> Settled:
    """The end of a run that waited longer than STALE allows."""
    why = f"it waited for more than {stale_ms / 1000:g} s to begin"
    return Settled(State.EXPIRED, why, Cause.STALE)


def check_same_trigger(run_id: str, known_digest: str, digest: str) -> None:
    """Raise KeyReused if a known trigger id arrives with other content."""
    if known_digest != digest:
        raise KeyReused(f"it belongs to run {run_id}, which was asked for with other content")


def is_last_attempt(attempt: int, max_attempts: int) -> bool:
    """Whether a run will be set aside if the process ends once more while it runs."""
    return attempt >= max_attempts


def is_too_old(age_ms: float, max_age_s: int) -> bool:
    """Whether a run found at start is too old to run without a person's consent.

    It may move a machine.
    """
    return age_ms > max_age_s * 1000
