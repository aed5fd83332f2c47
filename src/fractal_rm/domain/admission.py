"""Plain functions that decide which triggers a node accepts, and which of its runs may begin.

`check_room` refuses a trigger for which there is no room. `is_last_attempt` and `is_too_old` decide
what happens to an open run after a crash.
"""

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

# A flow may use at most 8 times as many slots as are free, so a flow with a slow component leaves
# slots for other flows. If one flow is busy, it gets 8/9 of all slots. If two flows are busy, each
# of them gets 8/17. (Dynamic thresholds: Choudhury and Hahne, 1998.)
MAX_SHARE_OF_FREE = 8
# Every eighth turn tries the priorities in another order, so that no run waits forever.
FAIR_TURN = 8


@dataclass(slots=True)
class Load:
    """The numbers of waiting runs and of runs in flight on this node, and their use of memory.

    ``payload_bytes`` is the size of the payloads of all these runs. ``result_bytes`` is the size of
    the results of the runs in flight.
    """

    waiting: int = 0
    in_flight: int = 0
    payload_bytes: int = 0
    result_bytes: int = 0


class Limits(msgspec.Struct, frozen=True):
    """The bounds of `Load`.

    ``memory_bytes`` bounds both `Load.payload_bytes` and `Load.result_bytes`. LATEST is not applied
    to a payload with more than ``evaluated_values`` values.
    """

    waiting: int = 100_000
    in_flight: int = 1_000
    memory_bytes: int = 256 * 1024 * 1024
    evaluated_values: int = MAX_VALUES


def check_room(load: Load, limits: Limits, size: int) -> None:
    """Raise Busy if another trigger with a payload of ``size`` bytes would exceed a bound."""
    if load.waiting >= limits.waiting:
        raise Busy(f"{load.waiting} runs wait, and the maximum is {limits.waiting}")
    if load.payload_bytes + size > limits.memory_bytes:
        raise Busy(
            f"unfinished runs use {load.payload_bytes} bytes,"
            f" and the maximum is {limits.memory_bytes}"
        )


def may_begin(flow_in_flight: int, load: Load, limits: Limits) -> bool:
    """Whether a flow that has ``flow_in_flight`` runs in flight may begin another run.

    No run begins if the results of the runs in flight have reached their memory bound.
    """
    if load.in_flight and load.result_bytes >= limits.memory_bytes:
        return False
    free = limits.in_flight - load.in_flight
    if flow_in_flight == 0:
        return free > 0
    # The last free slot is reserved for flows that have no run in flight.
    return free > 1 and flow_in_flight < MAX_SHARE_OF_FREE * free


def is_within_limit(limit: int | None, unfinished: int) -> bool:
    """Whether LIMIT allows another run, if ``unfinished`` runs of the flow have begun."""
    return limit is None or unfinished < limit


def latest_key(
    flow_id: str, latest: str | None, payload: msgspec.Raw, max_values: int = MAX_VALUES
) -> str | None:
    """The key of a run for LATEST. A newer run supersedes an older run with the same key.

    Two runs of a flow have the same key if LATEST picks the same value from their payloads. The key
    is None if the flow has no LATEST, or if LATEST picks null or cannot be evaluated. A run without
    a key is never superseded.
    """
    if latest is None:
        return None
    try:
        values = ValueBudget(max_values)
        value = pick(latest, decode_value(payload, "payload", values), "LATEST", values)
        text = None if value is None else encode_value(canonical(value), sort_keys=True)
    except (CannotEvaluate, RecursionError):  # for example, an older release accepted the payload
        return None
    return None if text is None else f"{flow_id}\0{latest}\0{text.decode()}"


def is_stale(run: Run, steady_ms: int) -> bool:
    """Whether a run has not begun yet and has waited longer than STALE allows."""
    queueing = run.flow.queueing
    if queueing is msgspec.UNSET or queueing.stale_ms is None or run.has_begun:
        return False
    return steady_ms - run.steady_ms >= queueing.stale_ms


def superseded_by(newer_id: str) -> Settled:
    """The end of a waiting run that LATEST replaces by a newer run."""
    reason = f"the newer run {newer_id} replaces this run (LATEST)"
    return Settled(State.SUPERSEDED, reason, Cause.SUPERSEDED)


def expired_as_stale(stale_ms: int) -> Settled:
    """The end of a run that has waited longer than STALE allows."""
    reason = f"the run waited for more than {stale_ms / 1000:g} s to begin"
    return Settled(State.EXPIRED, reason, Cause.STALE)


def check_same_trigger(run_id: str, known_digest: str, digest: str) -> None:
    """Raise KeyReused if the content of a trigger differs from that of the run with its id."""
    if known_digest != digest:
        raise KeyReused(f"the trigger of run {run_id} has the same id, but other content")


def is_last_attempt(attempt: int, max_attempts: int) -> bool:
    """Whether ``attempt`` is the last execution of a run. Another crash would set the run aside."""
    return attempt >= max_attempts


def is_too_old(age_ms: float, max_age_s: int) -> bool:
    """Whether an open run is too old to continue by itself when the node starts.

    A person must release such a run, because its calls may move a machine.
    """
    return age_ms > max_age_s * 1000
