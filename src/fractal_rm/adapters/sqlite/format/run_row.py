"""A row of the table ``runs`` with named columns."""

from __future__ import annotations

from typing import Any, NamedTuple


class RunRow(NamedTuple):
    """A row of ``runs``. The values of a damaged row may have any type."""

    no: Any
    id: Any
    flow: Any
    state: Any
    reason: Any
    source: Any
    node: Any
    accepted_ms: Any
    settled_ms: Any
    ended_ahead_ms: Any
    parent: Any
    fault: Any
    pages: Any
    chain: Any
    duplicates: Any
    sum: Any
