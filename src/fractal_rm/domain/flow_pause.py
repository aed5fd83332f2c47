"""A flow that an operator has paused: its triggers are accepted, and their runs wait."""

from __future__ import annotations

import msgspec


class FlowPause(msgspec.Struct, frozen=True):
    """Who has paused a flow, and when (wall time in milliseconds since 1970)."""

    actor: str
    at_ms: int
