"""One run: why it is as it is, what it did when, where, and with which values."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
from litestar import Response, get
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from msgspec import UNSET

from fractal_rm.domain.facts import Accepted
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.state import State
from fractal_rm.domain.story import Event, NodeNote, RunToTell, Story, tell, waterfall
from fractal_rm.domain.story.placing_table import Lines, placing_lines
from fractal_rm.engine.ports import Handled, RunOutline, RunSummary
from fractal_rm.engine.story_of import note_of
from fractal_rm.web.pages.frame.site import AnyRequest, Shown, Site
from fractal_rm.web.pages.frame.visitor import Visitor
from fractal_rm.web.pages.runs.advice_links import ShownAdvice, shown_advice
from fractal_rm.web.pages.runs.run_values import RunValue, values_of
from fractal_rm.web.pages.runs.waterfall_drawing import DrawnWaterfall, draw

MAX_RELATIVES = 50  # children, and runs that repeat it, on the page
OPEN_EVERY_S, ENDED_EVERY_S = 1, 30
MAX_ID = 40
EVENTS_AT_ONCE = 30  # of a longer story, the middle is shown on request


@dataclass(frozen=True)
class RunPageView:
    """What the page shows of a run, as it was known at ``at_ms``.

    ``every_s``: seconds between two refreshes. ``replayed_state`` is the state of the run that it
    repeats; None if that is not kept.
    """

    run: RunSummary
    story: Story
    waterfall: DrawnWaterfall
    placing: Lines
    advice: list[ShownAdvice]
    values: list[RunValue]
    children: Sequence[RunSummary]
    more_children: int
    repeated_by: Sequence[RunSummary]
    handled: Handled | None
    parent: str | None
    parent_step: str
    replays: str | None
    replayed_state: State | None
    from_step: int | None
    title: str
    flow_changed: bool
    unreadable: str
    facts: int
    may_be_case: bool
    shows_values: bool
    at_ms: int
    every_s: int

    @property
    def events(self) -> tuple[list[Event], list[Event], list[Event]]:
        """The events: the first ones, those in the middle (of a long story), and the last ones."""
        events = self.story.events
        if len(events) <= 2 * EVENTS_AT_ONCE:
            return events, [], []
        half = EVENTS_AT_ONCE // 2
        return events[:half], events[half:-half], events[-half:]

    @property
    def took_ms(self) -> int:
        """How long it took, or has taken until now, from its acceptance."""
        run = self.run
        end_ms = self.at_ms if run.settled_ms is None else run.settled_ms
        return max(0, end_ms - run.accepted_ms)


def run_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the route of a run."""

    @get("/runs/{run_id:str}")
    async def show(request: AnyRequest) -> Response[bytes]:
        run_id: str = request.path_params["run_id"]
        shown = Shown(site, request)
        statuses = await site.operator.processes.statuses()
        view = await asyncio.to_thread(_view, site, run_id, shown, statuses.processes)
        if view is None:
            detail = f"no run {run_id[:MAX_ID]} is in the journals of this node"
            raise HTTPException(status_code=404, detail=detail)
        run = msgspec.structs.replace(view.run, handled=view.handled)
        return await site.page(request, "run.html", view=view, run=run)

    return [show]


def _view(
    site: Site, run_id: str, shown: Shown, processes: Sequence[NodeStatus]
) -> RunPageView | None:
    history, shows_values = site.history, shown.visitor.may("payload")
    detail = history.outline(run_id)
    if detail is None:
        return None
    run = detail.summary
    children = history.children(run_id)
    repeated_by = history.replays_of(run_id) if run.state.final else []
    told = site.operator.stories.told(
        detail,
        children,
        repeated_by,
        shows_values=shows_values,
        here=_here(site, run, processes),
        clock=shown.short,
    )
    handled = history.handled([run_id]).get(run_id)
    view = _made(told, detail, children, repeated_by, handled, shown.visitor)
    original = None if view.replays is None else history.outline(view.replays)
    return view if original is None else replace(view, replayed_state=original.summary.state)


def _made(
    told: RunToTell,
    detail: RunOutline,
    children: Sequence[RunSummary],
    repeated_by: Sequence[RunSummary],
    handled: Handled | None,
    visitor: Visitor,
) -> RunPageView:
    run, story = detail.summary, tell(told)
    first = detail.facts[0].fact if detail.facts else None
    accepted = first if isinstance(first, Accepted) else None
    origin = "" if accepted is None or accepted.origin is UNSET else accepted.origin
    parent, _, step = origin.rpartition(":")
    return RunPageView(
        run=run,
        story=story,
        waterfall=draw(waterfall(told)),
        placing=placing_lines(told),
        advice=shown_advice(
            story.advice, may_operate=visitor.may("operate"), may_edit=visitor.may("admin")
        ),
        values=values_of(detail) if told.show_values else [],
        children=children[:MAX_RELATIVES],
        more_children=max(0, len(children) - MAX_RELATIVES),
        repeated_by=repeated_by[-MAX_RELATIVES:],
        handled=handled,
        parent=parent or None,
        parent_step=step,
        replays=None if accepted is None or accepted.replays is UNSET else accepted.replays,
        replayed_state=None,
        from_step=None if accepted is None or accepted.from_step is UNSET else accepted.from_step,
        title=told.flow.title if told.flow is not None else "",
        flow_changed=told.flow_changed is True,
        unreadable=detail.unreadable or "",
        facts=len(detail.facts),
        may_be_case=run.state.final and accepted is not None and told.show_values,
        shows_values=told.show_values,
        at_ms=told.now_ms,
        # A run with very many facts takes more time to read.
        every_s=ENDED_EVERY_S if run.state.final else OPEN_EVERY_S + len(detail.facts) // 2_000,
    )


def _here(site: Site, run: RunSummary, processes: Sequence[NodeStatus]) -> NodeNote:
    """What is known about the node now, from the process that has the journal of the run."""
    status = next((each for each in processes if each.journal == run.journal), None)
    if status is None:
        return note_of(site.config())
    return note_of(
        site.config(), is_running=True, status=status, paused=status.paused,
        draining=status.draining,
    )  # fmt: skip
