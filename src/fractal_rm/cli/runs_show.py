"""`runs show`: one run, with its steps, its relatives and all its facts."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import click
import msgspec
from msgspec import UNSET

from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.cli.completion import complete_run
from fractal_rm.cli.find_run import find_run
from fractal_rm.cli.options import (
    config_option,
    json_option,
    moment,
    print_json,
    print_table,
    state_of,
)
from fractal_rm.cli.safe_text import echo
from fractal_rm.cli.told import told_run
from fractal_rm.cli.words import paragraph
from fractal_rm.domain.facts import Accepted, AnyFact, Dead, Discarded
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.story import RunToTell, StepRow, step_rows, tell
from fractal_rm.domain.story.words import duration
from fractal_rm.engine.ports import RunDetail


@click.command("show")
@click.argument("run_id", metavar="RUN", shell_complete=complete_run)
@config_option
@json_option
def show_run(run_id: str, folder: Path, as_json: bool) -> None:
    """Show one run: why it is as it is, its steps, and all its facts.

    The first characters of its id are enough. `runs why` tells the same as a story.
    """
    history = SqliteHistory(state_of(folder))
    detail = find_run(history, run_id)
    if as_json:
        print_json(detail)
    else:
        print_run(detail, told_run(history, detail, folder))


def print_run(detail: RunDetail, told: RunToTell) -> None:
    """Print a run for people."""
    run = detail.summary
    echo(f"run {run.id}: {run.state.value}" + (f", {run.reason}" if run.reason else ""))
    for line in _about(detail, told):
        echo(line)
    echo()
    echo(paragraph("why: ", tell(told).why))
    echo()
    rows = step_rows(told) if run.flow is not None else []
    if rows:
        print_table(
            ("step", "what", "state", "status", "tries", "took", "result or reason"),
            map(_row, rows),
            empty="",
        )
        echo()
    print_table(
        ("at", "after ms", "fact", ""),
        [
            (moment(timed.at_ms), timed.at_ms - run.accepted_ms, *describe_fact(timed.fact))
            for timed in detail.facts
        ],
        empty="the facts of this run were deleted because of their age; see history.max_age_s",
    )
    if detail.unreadable:
        echo(f"some facts cannot be read: {detail.unreadable}")


def _about(detail: RunDetail, told: RunToTell) -> Iterator[str]:
    run = detail.summary
    title = f" ({told.flow.title})" if told.flow is not None and told.flow.title else ""
    changed = ", which has been changed since" if told.flow_changed else ""
    yield f"flow {run.flow or '-'}{title}{changed}, by {run.source}, journal {run.journal}"
    took = "" if run.settled_ms is None else f", took {duration(run.settled_ms - run.accepted_ms)}"
    yield f"accepted {moment(run.accepted_ms)}{took}"
    first = detail.facts[0].fact if detail.facts else None
    if isinstance(first, Accepted) and first.replays is not UNSET:
        by = "" if first.actor is UNSET else f", asked for by {first.actor}"
        yield f"repeats run {first.replays}{by}"
    if isinstance(first, Accepted) and first.origin is not UNSET:
        parent, _, step = first.origin.rpartition(":")
        yield f"started by step {step} of run {parent}"
    for child in told.children:
        yield f"has started run {child.run} of flow {child.flow}: {child.state.value}"
    for run_id in told.repeated_by:
        yield f"repeated as run {run_id}"
    for timed in detail.facts:
        if isinstance(timed.fact, Discarded):
            note = f": {timed.fact.note}" if timed.fact.note else ""
            yield f"discarded by {timed.fact.actor} at {moment(timed.at_ms)}{note}"


def _row(row: StepRow) -> tuple[object, ...]:
    took = "" if row.took_ms is None else duration(row.took_ms)
    number = "" if row.number is None else row.number
    return number, row.what, row.state, row.status or "", row.attempts or "", took, row.text


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
