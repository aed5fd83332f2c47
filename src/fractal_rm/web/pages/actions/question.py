"""The shape of what a page asks before an action."""

from __future__ import annotations

import msgspec

from fractal_rm.web.pages.actions.subject import Subject


class Option(msgspec.Struct, frozen=True):
    """One of the values of a field."""

    value: str
    label: str
    is_chosen: bool = False


class Field(msgspec.Struct, frozen=True):
    """A field of a form. ``kind``: ``radio``, ``select``, ``text``, ``area`` or ``hidden``."""

    kind: str
    name: str
    label: str = ""
    options: tuple[Option, ...] = ()
    value: str = ""
    hint: str = ""


class Question(msgspec.Struct, frozen=True):
    """What a page asks. ``effects`` say what will happen; ``warnings`` what may go wrong.

    ``obstacle``: why the action is not possible now; then there is no form.
    """

    title: str
    button: str = ""
    effects: list[str] = []
    warnings: list[str] = []
    fields: list[Field] = []
    obstacle: str = ""


def handled_before(subject: Subject) -> list[str]:
    """A warning, if an operator has dealt with the run before."""
    handled = subject.handled
    if handled is None:
        return []
    who = (handled.actor or "an operator").removeprefix("token ")
    what = "discarded" if handled.by_run is None else "repeated"
    return [f"It was {what} before, by {who} at {subject.told.clock(handled.at_ms)}."]
