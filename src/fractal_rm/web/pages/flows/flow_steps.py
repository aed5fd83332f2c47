"""What a page says about each step: how many runs are at it now, and how often it failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from markupsafe import Markup

from fractal_rm.adapters.sqlite.format.faults import shape_of
from fractal_rm.domain.flow import Call, Flow, Step, SubFlow
from fractal_rm.domain.masking.flow_text import masked_flow_line
from fractal_rm.domain.node_status import ComponentStatus, FlowStatus
from fractal_rm.engine.execute import calls, sub_flow, unnumbered
from fractal_rm.engine.ports import FailureGroup
from fractal_rm.pictures.card import Card, Entry, Mark, cards
from fractal_rm.pictures.page_picture import page_picture


class StepRow(msgspec.Struct, frozen=True):
    """One step. ``now``: how many runs are at it. ``failed``: how many ended because of it.

    ``is_counted``: all runs of the time were searched; otherwise ``failed`` is too low.

    ``shared_with``: the other steps that call the same endpoint. The history does not tell apart
    which of these steps failed, so ``failed`` is the number of all of them together. ``waiting``:
    the calls of all flows that wait for the component of this step. ``query``: the query of the
    page of failures that shows these runs.
    """

    position: int
    card: Card
    now: int = 0
    failed: int = 0
    shared_with: tuple[int, ...] = ()
    component: ComponentStatus | None = None
    query: str = ""
    is_counted: bool = True

    @property
    def label(self) -> str:
        """The step in a list: its number, or nothing if it has none."""
        return "" if self.card.number is None else str(self.card.number)

    @property
    def options(self) -> list[Entry]:
        """What limits, repeats or undoes the step."""
        card = self.card
        more = [("FOREACH", card.foreach), ("WHEN", card.when or card.element_when)]
        return [each for each in (*more, *card.options, ("UNDO", card.undo)) if each[1]]


class Steps(msgspec.Struct, frozen=True):
    """All steps. ``elsewhere``: failures of the flow that no step of it has caused."""

    rows: list[StepRow]
    elsewhere: int


def steps_of(
    flow: Flow,
    status: FlowStatus,
    components: Mapping[str, ComponentStatus],
    groups: Sequence[FailureGroup],
    *,
    is_counted: bool = True,
) -> Steps:
    """The steps of a flow. ``groups`` are the failures of the time that is shown.

    ``is_counted``: all runs of that time were searched for failures.
    """
    labels = [failure_label(step) for step in flow.steps]
    failed, elsewhere = _failed_by_label(labels, groups)
    rows: list[StepRow] = []
    for position, (step, card) in enumerate(zip(flow.steps, cards(flow), strict=True)):
        label = labels[position]
        same = [at for at, other in enumerate(labels) if other == label and at != position]
        shown = without_secrets(card)
        component = components.get(step.component) if isinstance(step, Call) else None
        rows.append(
            StepRow(
                position,
                shown,
                status.at_steps.get(position, 0),
                failed.get(label, 0),
                tuple(at + 1 for at in same),
                component,
                failures_query(flow, step),
                is_counted,
            )
        )
    return Steps(rows, elsewhere)


def failure_label(step: Step) -> str:
    """How the reason of a run begins that ended because of a step, without numbers.

    The history groups failures by their reason without numbers (`FailureGroup.shape`).
    """
    if isinstance(step, Call):
        label = calls.label_of(step)
    elif isinstance(step, SubFlow):
        label = sub_flow.label_of(step)
    else:
        label = unnumbered.label_of(step)
    return shape_of(label)


def _failed_by_label(
    labels: Sequence[str], groups: Sequence[FailureGroup]
) -> tuple[dict[str, int], int]:
    failed: dict[str, int] = {}
    elsewhere = 0
    for group in groups:
        own = [each for each in labels if _is_reason(group.shape, each)]
        if own:
            label = max(own, key=len)
            failed[label] = failed.get(label, 0) + group.count
        else:
            elsewhere += group.count
    return failed, elsewhere


def _is_reason(shape: str, label: str) -> bool:
    """Whether a reason begins with the name of a step. The name of an element may follow it."""
    rest = shape.removeprefix(label)
    return rest != shape and rest.startswith((":", ", element #:"))


def failures_query(flow: Flow, step: Step) -> str:
    """The query of a page that lists the failures of a step, of the last hour."""
    conditions: dict[str, Any] = {"flow": flow.id, "since": "1h"}
    if isinstance(step, Call):
        conditions["component"] = step.component
    return urlencode(conditions)


def without_secrets(card: Card) -> Card:
    """A card without the secrets that are written into the flow."""
    options = tuple(
        (keyword, masked_flow_line(f"{keyword} {text}").removeprefix(f"{keyword} "))
        for keyword, text in card.options
    )
    return msgspec.structs.replace(card, options=options, sends=masked_flow_line(card.sends))


def picture_of(flow: Flow, steps: Steps, root: str) -> Markup:
    """The picture of a flow, with marks and links. All its texts are escaped and made safe."""
    marked = [_marked(step, row, root) for step, row in zip(flow.steps, steps.rows, strict=True)]
    return Markup(page_picture(flow, marked, f"Picture of flow {flow.id}"))  # noqa: S704 - escaped


def _marked(step: Step, row: StepRow, root: str) -> Card:
    link = ""
    if isinstance(step, Call):
        link = f"{root}components/{quote(step.component, safe='')}"
    elif isinstance(step, SubFlow):
        link = f"{root}flows/{quote(step.flow, safe='')}"
    return msgspec.structs.replace(row.card, marks=_marks(row), link=link)


def _marks(row: StepRow) -> tuple[Mark, ...]:
    marks: list[Mark] = []
    if row.now:
        marks.append(Mark(f"▶ {row.now:,} now", "accent"))
    component = row.component
    if component is not None and component.circuit not in (None, "closed"):
        marks.append(Mark(f"⊘ circuit {component.circuit}", "fail"))
    elif component is not None and component.waiting:
        marks.append(Mark(f"‖ {component.waiting:,} calls wait", "wait"))
    if row.failed and not row.is_counted:
        marks.append(Mark("✗ failed, not counted yet", "fail"))
    elif row.failed:
        together = " with others" if row.shared_with else ""
        marks.append(Mark(f"✗ {row.failed:,} failed{together}, 1 h", "fail"))
    return tuple(marks)
