"""Which runs a list, a count or an action on many runs means."""

from __future__ import annotations

import msgspec

from fractal_rm.domain.state import State


class RunFilter(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Conditions that a run must fulfil, all of them. None: any value.

    ``states``: one of these. ``component``, ``cause`` and ``text`` find runs in trouble only: the
    component that was called last, the cause, and a part of the reason (the case does not matter).
    ``node``: the other node that has the run; ``here`` for this node. ``source`` is that of
    `Accepted`. ``since_ms`` and ``until_ms`` bound the wall time of acceptance, in milliseconds
    since 1970; ``until_ms`` is not included. ``handled``: whether an operator has repeated or
    discarded the run. ``slower_ms``: the run has ended, and this took at least so many
    milliseconds from its acceptance. ``dead_letters``: only messages that never became a run
    (true), or none.
    """

    flow: str | None = None
    states: tuple[State, ...] | None = None
    component: str | None = None
    cause: str | None = None
    node: str | None = None
    source: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    text: str | None = None
    handled: bool | None = None
    slower_ms: int | None = None
    dead_letters: bool | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every run fulfils the conditions. An action on many runs refuses this filter."""
        return self == RunFilter()
