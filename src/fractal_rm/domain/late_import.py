"""Import a module when it is first used, if most nodes never need it: each takes memory.

| module | memory | needed by |
|---|---|---|
| `fractal_rm.domain.value_path` (jmespath) | 0.5 MiB | a flow with a path (``payload.a.b``) |
| `cronsim`, `zoneinfo`, `fractal_rm.adapters.schedule.cron_times` | 0.4 MiB | `CRON` |
| `difflib` | 0.1 MiB | a finding with "did you mean" |

Raises OSError at the first use if no file descriptor is free.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def late_import(name: str) -> Any:
    """The module, imported unless it is already."""
    return import_module(name)
