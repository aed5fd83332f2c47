"""Gathers what `domain.story` tells the story of a run from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fractal_rm.config.model import Component, Config
from fractal_rm.domain.facts import Accepted
from fractal_rm.domain.flow import Flow, flow_version, without_lines
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.story import Child, ComponentNote, NodeNote, RunToTell
from fractal_rm.engine.ports.history import RunDetail, RunSummary

_NOTHING_KNOWN = NodeNote()


def version_in(detail: RunDetail) -> str | None:
    """The version of the flow with which a run began; None if it is not known."""
    first = detail.facts[0].fact if detail.facts else None
    return first.version if isinstance(first, Accepted) else None


def note_of(
    config: Config | None,
    *,
    is_running: bool | None = None,
    status: NodeStatus | None = None,
    paused: bool = False,
    draining: bool = False,
) -> NodeNote:
    """What is known about the node now. ``config`` is None if it cannot be read."""
    components = None
    if config is not None:
        components = {name: _component_note(each) for name, each in config.components.items()}
    return NodeNote(is_running, status, paused, draining, components)


def _component_note(component: Component) -> ComponentNote:
    urls = {
        name: f"{endpoint.post.origin}{endpoint.post.target}"
        for name, endpoint in component.endpoints.items()
    }
    limit = None if component.gate is None else component.gate.limit
    return ComponentNote(urls, limit, component.idempotent)


def run_to_tell(
    detail: RunDetail,
    *,
    now_ms: int,
    clock: Callable[[int], str],
    flow: Flow | None = None,
    current: Mapping[str, Flow] | None = None,
    here: NodeNote = _NOTHING_KNOWN,
    children: Sequence[RunSummary] = (),
    repeated_by: Sequence[str] = (),
    show_values: bool = True,
) -> RunToTell:
    """What is known about a run, for its story.

    ``flow`` is the definition with which it began, or None. ``current`` has the flows of flows.conf
    now. ``clock`` writes a time for people. See `RunToTell` for the others.
    """
    run = detail.summary
    return RunToTell(
        id=run.id,
        flow_id=run.flow,
        state=run.state,
        reason=run.reason,
        source=run.source,
        journal=run.journal,
        accepted_ms=run.accepted_ms,
        settled_ms=run.settled_ms,
        now_ms=now_ms,
        clock=clock,
        node=run.node,
        facts=[(each.at_ms, each.fact) for each in detail.facts],
        flow=flow,
        flow_changed=_has_changed(run.flow, flow, version_in(detail), current),
        current=(current or {}).get(run.flow or ""),
        here=here,
        children=[Child(each.id, each.state, each.flow or "") for each in children],
        repeated_by=repeated_by,
        show_values=show_values,
        unreadable=detail.unreadable or "",
    )


def _has_changed(
    flow_id: str | None,
    recorded: Flow | None,
    version: str | None,
    current: Mapping[str, Flow] | None,
) -> bool | None:
    """Whether flows.conf has another definition of the flow now. None: not known.

    A flow that only has moved in flows.conf is the same.
    """
    if flow_id is None or version is None or current is None:
        return None
    flow = current.get(flow_id)
    if flow is None or flow_version(flow) == version:
        return flow is None
    return recorded is None or without_lines(flow) != without_lines(recorded)
