"""The query and the form of an action on many runs."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from fractal_rm.domain.actions import BulkAction, Definition, NotPossible, Release
from fractal_rm.domain.bulk_filter import names_runs
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.web.api.action_options import (
    CancelOptions,
    DiscardOptions,
    Note,
    ReplayOptions,
    SendOptions,
    StepNumber,
)
from fractal_rm.web.api.filters import Conditions, filter_of
from fractal_rm.web.pages.actions.asked import RequestKey

BulkKind = Literal["cancel", "replay", "send", "discard", "release"]
NO_CONDITION = (
    "Choose runs by at least one condition, such as a flow or a time: without a condition, every"
    " run of the node would be meant."
)


class BulkQuery(Conditions, frozen=True, kw_only=True):
    """What is asked for: an action, and the conditions on the runs.

    ``dead_letters``: dead letters are meant, and not runs. ``patient``: whoever asks waits longer
    for the number. ``definition`` and ``from_step``: None is what suits the runs on the page that
    asks; in its form, it is the flow with which each began, and the first step.
    """

    action: BulkKind
    dead_letters: bool = False
    cut: bool = False
    undo: bool = True
    definition: Definition | None = None
    from_step: StepNumber | None = None
    note: Note = ""
    again: bool = False
    patient: bool = False

    def to_action(self) -> BulkAction:
        """The action, without a run."""
        if self.action == "cancel":
            return CancelOptions(self.cut, self.undo).to_action("")
        if self.action == "replay":
            definition = self.definition or Definition.RECORDED
            return ReplayOptions(definition, self.from_step, self._again).to_action("")
        if self.action == "send":
            return SendOptions(again=self._again).to_action("")
        return Release("") if self.action == "release" else DiscardOptions(self.note).to_action("")

    @property
    def _again(self) -> bool:
        """Whether runs are meant that were handled before."""
        return self.again or self.handled is True

    def filter(self, now_ms: int) -> RunFilter:
        """The filter. Raises NotPossible if it would mean every run, and BadParameter."""
        is_letter = self.dead_letters or self.action == "send"
        wanted = filter_of(self, now_ms, dead_letters=is_letter)
        if not names_runs(wanted):
            raise NotPossible(NO_CONDITION)
        return wanted


class BulkForm(BulkQuery, frozen=True, kw_only=True):
    """The form that begins it. ``expect``: the number of runs that its page has shown."""

    request: RequestKey
    expect: Annotated[int, msgspec.Meta(ge=0, le=10**12)]
