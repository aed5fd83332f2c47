"""A run that an operator wants to act on: all that the page knows which asks before the action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from fractal_rm.domain.facts import AnyFact, Dead, Discarded
from fractal_rm.domain.flow import Flow, without_lines
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.story import RunToTell, Story, tell
from fractal_rm.domain.transitions import ImpossibleFact
from fractal_rm.engine.ports import Handled, RunDetail, RunSummary
from fractal_rm.engine.story_of import note_of, run_to_tell, version_in
from fractal_rm.web.pages.frame.site import Site
from fractal_rm.web.pages.frame.text_filters import Zone


@dataclass(frozen=True)
class Subject:
    """``run`` is None if its facts are not complete. ``recorded``: the flow with which it began."""

    summary: RunSummary
    facts: list[AnyFact]
    handled: Handled | None
    run: Run | None
    recorded: Flow | None
    current: Flow | None
    story: Story
    told: RunToTell

    @property
    def letter(self) -> Dead | None:
        """The dead letter; None if it is a run."""
        first = self.facts[0] if self.facts else None
        return first if self.summary.flow is None and isinstance(first, Dead) else None

    @property
    def note(self) -> str:
        """What the operator wrote who discarded it."""
        notes = [each.note for each in self.facts if isinstance(each, Discarded)]
        return notes[-1] if notes else ""

    @property
    def flow_changed(self) -> bool:
        """Whether flows.conf has another definition now, or none."""
        if self.recorded is None or self.current is None:
            return self.current is None
        return without_lines(self.recorded) != without_lines(self.current)


def read_subject(site: Site, run_id: str, zone: Zone, *, shows_values: bool) -> Subject | None:
    """A run with its facts, or None if no journal has it. Blocks: it reads the disk.

    ``zone``: the time zone of the times in its story.
    """
    history = site.history
    detail = history.run(run_id)
    if detail is None:
        return None
    handled = history.handled([run_id]).get(run_id)
    version, summary = version_in(detail), detail.summary
    recorded = None if version is None else history.recorded_flow(summary.journal, version)
    config = site.config()
    told = run_to_tell(
        detail,
        now_ms=site.clock.now_ms(),
        clock=lambda at_ms: f"{zone.full(at_ms)} {zone.label}",
        flow=recorded,
        current=config.flows,
        here=note_of(config),
        children=history.children(run_id),
        repeated_by=_repeated_by(handled),
        show_values=shows_values,
    )
    facts = [each.fact for each in detail.facts]
    return Subject(
        msgspec.structs.replace(summary, handled=handled, cause=_cause_of(summary, facts)),
        facts,
        handled,
        _folded(detail, facts, recorded),
        recorded,
        _current(config.flows, summary.flow),
        tell(told),
        told,
    )


def _repeated_by(handled: Handled | None) -> list[str]:
    return [] if handled is None or handled.by_run is None else [handled.by_run]


def _cause_of(summary: RunSummary, facts: list[AnyFact]) -> str | None:
    first = facts[0] if facts else None
    return first.cause.value if isinstance(first, Dead) else summary.cause


def _current(flows: Mapping[str, Flow], flow_id: str | None) -> Flow | None:
    return None if flow_id is None else flows.get(flow_id)


def _folded(detail: RunDetail, facts: list[AnyFact], recorded: Flow | None) -> Run | None:
    """The run as its facts make it; None if they are not complete."""
    if not facts or detail.unreadable is not None:
        return None
    summary = detail.summary
    flow = recorded or Flow(summary.flow or "")
    try:
        return fold(Run(summary.id, flow, summary.accepted_ms), facts)
    except ImpossibleFact:
        return None
