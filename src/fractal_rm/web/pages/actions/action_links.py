"""The links to the actions on one run, for templates."""

from __future__ import annotations

import msgspec

from fractal_rm.domain.possible_actions import Offer, offered_actions
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.engine.ports import RunSummary


class ActionLink(msgspec.Struct, frozen=True):
    """A link to the page that asks before an action. ``path`` is relative to the root."""

    path: str
    label: str
    offer: Offer


LABELS = {
    Offer.CANCEL: "Cancel",
    Offer.REPLAY: "Replay",
    Offer.RELEASE: "Release",
    Offer.DISCARD: "Discard",
    Offer.DECIDE_STEP: "Decide the step",
    Offer.DECIDE_OFFER: "Decide the offer",
    Offer.SEND: "Send again",
    Offer.EDIT: "Edit and send",
}


def is_dead_letter(run: RunSummary) -> bool:
    """Whether it is a message that never became a run."""
    return run.state is State.DEAD and run.flow is None


def run_path(run: RunSummary) -> str:
    """The page of a run or of a dead letter, relative to the root."""
    return f"dead/{run.id}" if is_dead_letter(run) else f"runs/{run.id}"


def action_links(run: RunSummary) -> list[ActionLink]:
    """The actions that are offered for a run, the most useful first."""
    offers = offered_actions(
        run.state,
        cause=run.cause,
        is_dead_letter=is_dead_letter(run),
        has_parent=run.parent is not None,
        handled=run.handled is not None,
    )
    return [ActionLink(f"{run_path(run)}/{offer.value}", LABELS[offer], offer) for offer in offers]


def needs_action(run: RunSummary) -> bool:
    """Whether somebody should act on a run: it has not ended well, and nobody has dealt with it."""
    return run.handled is None and (not run.state.final or run.state in TROUBLE_STATES)
