"""Imports modules at their first use. These modules take memory, and most nodes do not need them.

| module | memory | needed by |
|---|---|---|
| `fractal_rm.domain.value_path` (jmespath) | 0.5 MiB | a flow with a path (``payload.a.b``) |
| `cronsim`, `zoneinfo`, `fractal_rm.adapters.schedule.cron_times` | 0.4 MiB | `CRON` |
| `fractal_rm.engine.actions` | 0.2 MiB | an action of an operator on a run |
| `fractal_rm.web.operator_app` | 3 MiB | a question or an action over HTTP |
| `difflib` | 0.1 MiB | a finding with "did you mean" |

The first use raises OSError if no file descriptor is free.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def late_import(name: str) -> Any:
    """Import a module if it is not imported yet, and return it."""
    return import_module(name)
