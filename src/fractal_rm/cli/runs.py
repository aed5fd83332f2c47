"""`runs`: list runs, or show one run with its facts."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import click
import msgspec
from msgspec import UNSET

from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.cli.find_run import find_run
from fractal_rm.cli.options import (
    config_option,
    json_option,
    moment,
    print_json,
    print_table,
    state_of,
)
from fractal_rm.cli.runs_cancel import cancel_runs
from fractal_rm.cli.runs_record import record_run
from fractal_rm.cli.runs_resolve import resolve_run
from fractal_rm.cli.runs_why import why_run
from fractal_rm.domain.facts import AnyFact, Dead
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import RunDetail

MAX_LISTED = 100_000
_STATES = [state.value for state in State if state is not State.NEW]


@click.group()
def runs() -> None:
    """List runs, show a run, decide a run in doubt, or write a test case from a run."""


runs.add_command(cancel_runs)
runs.add_command(record_run)
runs.add_command(resolve_run)
runs.add_command(why_run)


@runs.command("list")
@click.option("--state", type=click.Choice(_STATES), help="Only runs in this state.")
@click.option("--flow", metavar="ID", help="Only runs of this flow.")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LISTED),
    default=20,
    show_default=True,
    help="The maximum number of runs.",
)
@click.option("--before", metavar="RUN", help="Only runs older than this run.")
@config_option
@json_option
def list_runs(
    state: str | None, flow: str | None, limit: int, before: str | None, folder: Path, as_json: bool
) -> None:
    """List the newest runs of all journals of the node."""
    history = SqliteHistory(state_of(folder))
    page = history.page(
        state=State(state) if state else None, flow=flow, limit=limit, before=before
    )
    if as_json:
        print_json({"runs": page.runs, "unreadable": page.unreadable})
        return
    for damage in page.unreadable:
        click.echo(f"some runs are not listed: {damage}", err=True)
    print_table(
        ("run", "accepted", "flow", "by", "where", "state", "ms", "why"),
        [
            (
                run.id,
                moment(run.accepted_ms),
                run.flow or "-",
                run.source,
                f"node {run.node}" if run.node else "here",
                run.state.value,
                run.settled_ms - run.accepted_ms if run.settled_ms else "",
                run.reason,
            )
            for run in page.runs
        ],
        empty="no runs",
    )


@runs.command("show")
@click.argument("run_id", metavar="RUN")
@config_option
@json_option
def show_run(run_id: str, folder: Path, as_json: bool) -> None:
    """Show one run with its facts. The first characters of its id are enough."""
    detail = find_run(SqliteHistory(state_of(folder)), run_id)
    if as_json:
        print_json(detail)
    else:
        _print(detail)


def _print(detail: RunDetail) -> None:
    run = detail.summary
    click.echo(f"run {run.id}: {run.state.value}" + (f", {run.reason}" if run.reason else ""))
    click.echo(f"flow {run.flow or '-'}, by {run.source}, journal {run.journal}")
    print_table(
        ("at", "after ms", "fact", ""),
        [
            (moment(timed.at_ms), timed.at_ms - run.accepted_ms, *describe_fact(timed.fact))
            for timed in detail.facts
        ],
        empty="the facts of this run were deleted because of their age; see history.max_age_s",
    )
    if detail.unreadable:
        click.echo(f"some facts cannot be read: {detail.unreadable}")


def describe_fact(fact: AnyFact) -> tuple[str, str]:
    """Return the name of a fact, and its fields as text."""
    fields = msgspec.structs.asdict(fact)
    if isinstance(fact, Dead):
        fields["body"] = fact.body.decode("utf-8", "replace")
    if fields.get("status") == 0:  # 0 means that the step is not a single HTTP call
        fields |= {"status": None, "took_ms": fields.get("took_ms") or None}
    _ = fields.pop("answer", None)  # the reason contains the answer
    set_fields = {key: value for key, value in fields.items() if value not in (None, "", UNSET)}
    name = str(fact.__struct_config__.tag)
    return name, "  ".join(f"{key} {_short(value)}" for key, value in set_fields.items())


def _short(value: object) -> str:
    if isinstance(value, Moment):
        return moment(value.wall_ms)
    if isinstance(value, Enum):
        value = value.value
    text = value if isinstance(value, str) else _json(value)
    return text if len(text) <= 200 else text[:200] + "…"


def _json(value: object) -> str:
    """Encode a value as JSON. If the result is a JSON string, return the text of the string."""
    text = msgspec.json.encode(value).decode()
    try:
        return msgspec.json.decode(text, type=str)
    except msgspec.DecodeError:
        return text
