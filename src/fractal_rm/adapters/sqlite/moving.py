"""Open runs of a history, on their way to another journal."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

import msgspec

from fractal_rm.adapters.log.stories import Beginning, Stories, Story
from fractal_rm.adapters.sqlite import schema
from fractal_rm.domain.run import Accepted, AnyFact, State

RUNS = (
    "SELECT no, id, flow, state, reason, source, node, accepted_ms, duplicates, key, digest,"
    " until_ms FROM runs LEFT JOIN keys ON keys.run = runs.no WHERE id = ?"
)
FLOW = "SELECT body FROM flows WHERE version = ?"
NUMBERS = "SELECT no FROM runs WHERE id IN (SELECT value FROM json_each(?)) AND settled_ms IS NULL"
DROP_KEYS = "DELETE FROM keys WHERE run IN (SELECT value FROM json_each(?))"
UNCOUNT = "UPDATE meta SET value = value - ? WHERE name = 'accepted'"

_facts = msgspec.json.Decoder(list[msgspec.Raw]).decode
_fact = msgspec.json.Decoder(tuple[int, AnyFact]).decode


def stories_of(db: sqlite3.Connection, run_ids: Sequence[str]) -> Stories:
    """All that is known of open runs, as of new ones; facts are the bytes that stand there.

    Raises sqlite3.Error.
    """
    stories = Stories()
    for run_id in run_ids:
        no, _, flow, state, reason, source, node, accepted_ms, again, key, digest, until_ms = (
            db.execute(RUNS, (run_id,)).fetchone()
        )
        facts = [fact for _, body, _ in db.execute(schema.PAGES, (no,)) for fact in _facts(body)]
        story = Story(run_id, list(facts), State(state), reason, node, again=again)
        beginning = Beginning(flow, source, accepted_ms, key, digest or "", until_ms or 0)
        stories.begin(story, beginning)
        _, first = _fact(facts[0])
        if isinstance(first, Accepted) and first.version not in stories.flows:
            (stories.flows[first.version],) = db.execute(FLOW, (first.version,)).fetchone()
    return stories


def take_out(db: sqlite3.Connection, run_ids: Sequence[str]) -> None:
    """Drop open runs with their facts and keys, within a transaction. Raises sqlite3.Error."""
    numbers = [no for (no,) in db.execute(NUMBERS, (json.dumps(list(run_ids)),))]
    chosen = json.dumps(numbers)
    for statement in (DROP_KEYS, schema.DROP_PAGES, schema.DROP_RUNS):
        db.execute(statement, (chosen,))
    db.execute(UNCOUNT, (len(numbers),))
