"""What a page says before an action on many runs: how many, which, and what will happen."""

from __future__ import annotations

import msgspec

from fractal_rm.domain.actions import NotPossible
from fractal_rm.domain.bulk_filter import filter_for
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES
from fractal_rm.domain.story.words import duration
from fractal_rm.engine.bulk import MAX_RUNS, RATE_PER_S
from fractal_rm.engine.ports import Count, FailureGroup, RunSummary
from fractal_rm.web.pages.actions.bulk_form import BulkQuery
from fractal_rm.web.pages.actions.bulk_replay import Choices, choices_of
from fractal_rm.web.pages.actions.filter_links import fields_of, query_of
from fractal_rm.web.pages.actions.question import Field, Option
from fractal_rm.web.pages.frame.site import Site

# A page takes at most 200 ms. Usually the number is there at once; otherwise a person may ask to
# count for longer.
COUNT_WITHIN_S, PATIENT_S = 0.12, 15.0
KINDS_WITHIN_S, EXAMPLES_WITHIN_S = 0.15, 0.2
MAX_KINDS, MAX_EXAMPLES = 5, 5


class BulkQuestion(msgspec.Struct, frozen=True):
    """What the page says. ``shown``: the runs that were counted; later ones are not meant.

    ``obstacle``: why nothing can be done; ``narrower`` and ``patient``: queries of pages
    that may help, one with fewer runs and one that counts for longer.
    ``kinds_to_ms``: only the runs since this time are counted by kind. ``hidden``: the fields with
    the conditions.
    """

    shown: RunFilter
    number: int = 0
    takes: str = ""
    kinds: list[FailureGroup] = []
    kinds_to_ms: int | None = None
    other_kinds: int = 0
    examples: list[RunSummary] = []
    hidden: dict[str, str] = {}
    fields: list[Field] = []
    effects: list[str] = []
    warnings: list[str] = []
    obstacle: str = ""
    narrower: str = ""
    patient: str = ""
    unreadable: list[str] = []


def ask_about_many(site: Site, query: BulkQuery, now_ms: int) -> BulkQuestion:
    """Count the runs and find examples. Blocks: it reads the disk."""
    history = site.history
    try:
        wanted = query.filter(now_ms)
    except NotPossible as error:
        return BulkQuestion(RunFilter(), obstacle=error.reason)
    # Runs that are accepted after this page are not meant: nobody has seen them.
    until_ms = now_ms if wanted.until_ms is None else min(wanted.until_ms, now_ms)
    fixed = msgspec.structs.replace(wanted, until_ms=until_ms)
    shown = filter_for(query.to_action(), fixed)
    within_s = PATIENT_S if query.patient else COUNT_WITHIN_S
    count = history.count(shown, most=MAX_RUNS, within_s=within_s)
    if not count.is_exact:
        return BulkQuestion(
            shown,
            count.number,
            obstacle=_too_many(count),
            narrower=_narrower(query, shown, count),
            patient="" if query.patient or count.searched_to_ms is None else _patient(query, shown),
        )
    if count.number == 0:
        nothing = "Nothing matches now, so there is nothing to do."
        return BulkQuestion(shown, obstacle=nothing, unreadable=count.unreadable)
    kinds: list[FailureGroup] = []
    counted_to_ms: int | None = None
    if shown.states is not None and set(shown.states) <= TROUBLE_STATES:
        found = history.failures(shown, within_s=KINDS_WITHIN_S)
        counted_to_ms = found.searched_to_ms
        kinds = sorted(found.groups, key=lambda each: -each.count)
    examples = history.find(shown, limit=MAX_EXAMPLES, within_s=EXAMPLES_WITHIN_S).runs
    choices = Choices(_fields(query))
    if query.action == "replay":
        newest = [run.id for run in examples] + [group.newest for group in kinds]
        flows = {shown.flow} if shown.flow or counted_to_ms else {each.flow for each in kinds}
        choices = choices_of(site, query, newest, is_one_flow=len(flows - {None}) == 1)
    return BulkQuestion(
        shown,
        count.number,
        takes=duration(1000 * count.number / RATE_PER_S) if count.number > RATE_PER_S else "",
        kinds=kinds[:MAX_KINDS],
        kinds_to_ms=counted_to_ms,
        other_kinds=sum(each.count for each in kinds[MAX_KINDS:]),
        examples=examples,
        hidden=_hidden(query, shown),
        fields=choices.fields,
        effects=choices.effects,
        warnings=choices.warnings,
        unreadable=count.unreadable,
    )


def _too_many(count: Count) -> str:
    if count.searched_to_ms is None:
        return (
            f"More than {MAX_RUNS:,} match, which is the most of one action. Choose fewer, for"
            " example by a time."
        )
    return (
        f"They are not all counted yet: {count.number:,} so far, the newest. Count for longer, or"
        " choose fewer, for example by a time."
    )


def _narrower(query: BulkQuery, shown: RunFilter, count: Count) -> str:
    """The query for the newest runs, as far as they were counted."""
    if count.searched_to_ms is None or not count.number:
        return ""
    newest = msgspec.structs.replace(shown, since_ms=count.searched_to_ms + 1)
    return query_of(_hidden(query, newest))


def _patient(query: BulkQuery, shown: RunFilter) -> str:
    chosen = {"definition": query.definition, "from_step": query.from_step, "patient": "true"}
    return query_of({**_hidden(query, shown), **chosen})


def _hidden(query: BulkQuery, shown: RunFilter) -> dict[str, str]:
    fields = {"action": query.action, **fields_of(shown)}
    return {**fields, "dead_letters": "true"} if shown.dead_letters else fields


def _fields(query: BulkQuery) -> list[Field]:
    """What can be chosen."""
    if query.action == "cancel":
        return [
            Field("radio", "cut", "Runs in flight", (
                Option("false", "Wait for the answer of the current step", is_chosen=True),
                Option("true", "End the call at once: it is then not known what it has done"),
            )),
            Field("radio", "undo", "Finished steps with an UNDO", (
                Option("true", "Undo them", is_chosen=True),
                Option("false", "Leave them as they are"),
            )),
        ]  # fmt: skip
    if query.action == "discard":
        return [Field("text", "note", "Note", hint="Why. It is kept with each of them.")]
    return []
