"""`runs resolve`: an operator decides what nobody else can know about a run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import msgspec

from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.cli.act import new_request_id
from fractal_rm.cli.ask import folder_actions, own_name
from fractal_rm.cli.completion import complete_run
from fractal_rm.cli.exits import EXIT_FAILED, EXIT_PROBLEMS
from fractal_rm.cli.find_run import find_run
from fractal_rm.cli.options import config_option, json_option, print_json, state_of
from fractal_rm.cli.safe_text import echo
from fractal_rm.domain.actions import (
    ActionDone,
    ActionRefused,
    ActionRequest,
    CannotActNow,
    DecideOffer,
    DecideStep,
)
from fractal_rm.domain.handoff.decided import decision_in, is_in_doubt
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.state import State
from fractal_rm.domain.strict_json import check_json
from fractal_rm.engine.ports import RunSummary

_CHOICES = "--taken, --run-here, --step-done or --step-not-done"


@click.command("resolve")
@click.argument("run_id", metavar="RUN", shell_complete=complete_run)
@click.option("--taken", is_flag=True, help="The other node has the run: it is not executed here.")
@click.option(
    "--run-here", is_flag=True, help="The other node does not have the run: execute it here."
)
@click.option(
    "--step-done",
    is_flag=True,
    help="The component has done the step: go on after it, as a new run.",
)
@click.option(
    "--step-not-done",
    is_flag=True,
    help="The component has not done the step: repeat it, in a new run.",
)
@click.option("--result", metavar="JSON", help="With --step-done: the result of the step (null).")
@click.option("--again", is_flag=True, help="Also if a new run has gone on with this run before.")
@config_option
@json_option
def resolve_run(
    run_id: str, folder: Path, *, taken: bool, run_here: bool, step_done: bool,
    step_not_done: bool, result: str | None, again: bool, as_json: bool,
) -> int:  # fmt: skip
    """Decide a run of which the node cannot know what has happened.

    --taken and --run-here decide whether another node has a run that stays offered. First look for
    RUN on the other node (`fractal-rm runs show RUN` there). With --run-here, a run that the other
    node has is executed twice. With --taken, a run that it does not have is never executed.

    --step-done and --step-not-done decide whether a component has done the last step of a run that
    ended as unknown. First look at the component. The run goes on as a new run, with the results of
    the earlier steps.

    The journal records the decision with your login name. The first characters of the id are
    enough. To repeat the same decision is safe. Exits 1 if the run cannot be decided in this way
    (nothing is changed), and 4 if no running node has received the decision.
    """
    given = [taken, run_here, step_done, step_not_done]
    if sum(given) != 1:
        raise click.UsageError(f"give one of {_CHOICES}")
    if result is not None and not step_done:
        raise click.UsageError("--result needs --step-done")
    state = state_of(folder)
    detail = find_run(SqliteHistory(state), run_id)
    run = detail.summary.id
    if not (taken or run_here):
        return _act(state, DecideStep(run, step_done, _json(result), again), as_json=as_json)
    decision = Decision.TAKEN if taken else Decision.RUN_HERE
    facts = [timed.fact for timed in detail.facts]
    if is_in_doubt(detail.summary.state, facts):
        return _act(state, DecideOffer(run, decision), as_json=as_json)
    decided = decision_in(facts) is decision
    return _print_not_in_doubt(detail.summary, decided=decided, as_json=as_json)


def _print_not_in_doubt(run: RunSummary, *, decided: bool, as_json: bool) -> int:
    """Print that nothing was changed, and whether the run was decided in this way before."""
    state = run.state.value + (f", {run.reason}" if run.reason else "")
    if as_json:
        print_json({"run": run.id, "state": run.state, "reason": run.reason, "resolved": decided})
    elif decided:
        echo(f"run {run.id} is decided. It is now {state}")
    else:
        is_parked = run.state is State.PARKED
        hint = f"; `fractal-rm resume --parked {run.id}` resumes it" if is_parked else ""
        echo(f"run {run.id} is not in doubt, so nothing was changed. It is {state}{hint}")
    return 0 if decided else EXIT_PROBLEMS


def _act(state: Path, action: DecideOffer | DecideStep, *, as_json: bool) -> int:
    """Let a running node carry out a decision. Returns the exit code."""
    request = ActionRequest(action, own_name(), new_request_id())
    try:
        done = asyncio.run(folder_actions(state).act(request))
    except ActionRefused as error:
        return _print_refusal(action.run, error, as_json=as_json)
    _print(action.run, done, as_json=as_json)
    return 0


def _json(result: str | None) -> msgspec.Raw:
    """The result of a step, as JSON. Raises click.UsageError."""
    content = (result or "null").encode()
    try:
        check_json(content)
    except Malformed as error:
        raise click.UsageError(
            f"--result is not JSON: {error}; write a text as '\"text\"'"
        ) from None
    return msgspec.Raw(content)


def _print_refusal(run: str, error: ActionRefused, *, as_json: bool) -> int:
    state = error.state and error.state.value
    if as_json:
        print_json({"run": run, "state": state, "reason": error.reason, "resolved": False,
                    "error": error.code, "new_run": error.new_run})  # fmt: skip
    else:
        echo(f"run {run} is not decided: {error.reason}", err=True)
    return EXIT_FAILED if isinstance(error, CannotActNow) else EXIT_PROBLEMS


def _print(run: str, done: ActionDone, *, as_json: bool) -> None:
    state = done.state and done.state.value
    if as_json:
        print_json({"run": run, "state": state, "reason": "", "resolved": True,
                    "new_run": done.new_run})  # fmt: skip
        return
    text = f"run {run} is decided"
    if done.new_run is not None:
        text += f": it goes on as run {done.new_run}"
    elif state is not None:
        text += f". It is now {state}"
    echo(text)
