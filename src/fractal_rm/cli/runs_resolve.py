"""`runs resolve`: decide a run of which it is not known whether another node has it."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable
from pathlib import Path

import click
from msgspec import UNSET

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.find_run import find_run
from fractal_rm.cli.options import config_option, json_option, print_json, state_of
from fractal_rm.cli.safe_text import echo
from fractal_rm.config.decision_request import (
    DecisionRequest,
    is_waiting,
    take_request,
    write_request,
)
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.facts import Offered, Placed, Settled
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import RunDetail

RECEIVE_LIMIT_S = (
    5.0  # a running node reads a request within half a second, if the disk is not slow
)
EFFECT_LIMIT_S = 15.0
_PLACEMENTS = (Placed, Offered)
PAUSE_S = 0.1  # between two looks at the journals


class NotReceived(FractalError):
    """No running node has received the request. It was deleted, so it has no later effect."""

    code = "not-received"


class NoEffect(FractalError):
    """A node has received the request, but the run is still in doubt."""

    code = "no-effect"


@click.command("resolve")
@click.argument("run_id", metavar="RUN")
@click.option("--taken", is_flag=True, help="The other node has the run: it is not executed here.")
@click.option(
    "--run-here", is_flag=True, help="The other node does not have the run: execute it here."
)
@config_option
@json_option
def resolve_run(run_id: str, taken: bool, run_here: bool, folder: Path, as_json: bool) -> int:
    """Decide whether another node has a run that stays offered.

    First look for RUN on the other node (`fractal-rm runs show RUN` there). With --run-here, a run
    that the other node has is executed twice. With --taken, a run that it does not have is never
    executed. The journal records the decision with your login name.

    The first characters of the id are enough. To repeat the same decision is safe. Exits 1 if the
    run is not in doubt (nothing is changed), and 4 if no running node has received the decision.
    """
    if taken == run_here:
        raise click.UsageError("give either --taken or --run-here")
    decision = Decision.TAKEN if taken else Decision.RUN_HERE
    state = state_of(folder)
    history = SqliteHistory(state)
    detail = find_run(history, run_id)
    if _is_in_doubt(detail):
        now_ms = SystemClock.now_ms()
        request = DecisionRequest(detail.summary.id, decision, _actor(), now_ms)
        detail = _ask(state, history, detail, request)
    decided = _decision_in(detail) is decision
    if as_json:
        summary = detail.summary
        print_json({"run": summary.id, "state": summary.state, "reason": summary.reason,
                    "resolved": decided})  # fmt: skip
    else:
        echo(_sentence(detail, decided=decided))
    return 0 if decided else EXIT_PROBLEMS


def _actor() -> str:
    """The login name of the user who runs this command, also if the user has used sudo."""
    user_id = os.getuid()
    try:
        name = pwd.getpwuid(user_id).pw_name
    except KeyError:
        name = f"user {user_id}"
    sudo_user = os.environ.get("SUDO_USER", "")
    return f"{name} (sudo of {sudo_user:.40})" if user_id == 0 and sudo_user else name


def _ask(
    state: Path, history: SqliteHistory, detail: RunDetail, request: DecisionRequest
) -> RunDetail:
    """Give a request to the running nodes, and return the run after its effect.

    Raises RequestNotWritten, NotReceived, NoEffect.
    """
    write_request(state, request)
    try:
        _wait_until(lambda: not is_waiting(state, request.run), RECEIVE_LIMIT_S)
    finally:
        was_received = not take_request(state, request.run)
    if was_received:
        _wait_until(lambda: not _is_still_in_doubt(history, request.run), EFFECT_LIMIT_S)
    detail = history.run(request.run) or detail
    if _is_in_doubt(detail):
        if was_received:
            raise NoEffect(
                f"a node has received the decision about run {request.run}, but has not carried it"
                " out yet, perhaps because it waits for an answer of the other node;"
                f" `fractal-rm runs show {request.run}` shows the run, and you may repeat the"
                " command"
            )
        raise NotReceived(
            f"no running node has received the decision about run {request.run} within"
            f" {RECEIVE_LIMIT_S:.0f} s, so nothing was changed: start the node"
            f" (`fractal-rm {detail.summary.journal}`), and repeat the command"
        )
    return detail


def _is_in_doubt(detail: RunDetail) -> bool:
    """Whether the run is offered to another node. A parked run may be offered, too."""
    if detail.summary.state is State.PARKED:
        placements = [each.fact for each in detail.facts if isinstance(each.fact, _PLACEMENTS)]
        return bool(placements) and isinstance(placements[-1], Offered)
    return detail.summary.state is State.OFFERED


def _is_still_in_doubt(history: SqliteHistory, run_id: str) -> bool:
    detail = history.run(run_id)
    return detail is None or _is_in_doubt(detail)


def _wait_until(condition: Callable[[], bool], limit_s: float) -> None:
    """Wait until a condition is true, at most ``limit_s``."""
    end_s = SystemClock.monotonic_s() + limit_s
    while not condition() and SystemClock.monotonic_s() < end_s:
        time.sleep(PAUSE_S)


def _decision_in(detail: RunDetail) -> Decision | None:
    """The decision of an operator in the facts of a run, or None."""
    for timed in reversed(detail.facts):
        if isinstance(timed.fact, Settled) and timed.fact.actor is not UNSET:
            return Decision.TAKEN
        if isinstance(timed.fact, Placed) and timed.fact.actor is not UNSET:
            return Decision.RUN_HERE
    return None


def _sentence(detail: RunDetail, *, decided: bool) -> str:
    run = detail.summary
    state = run.state.value + (f", {run.reason}" if run.reason else "")
    if decided:
        return f"run {run.id} is decided. It is now {state}"
    hint = "; `fractal-rm resume --parked` resumes it" if run.state is State.PARKED else ""
    return f"run {run.id} is not in doubt, so nothing was changed. It is {state}{hint}"
