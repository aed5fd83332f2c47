"""Makes REST services without a node, with one flow."""

from __future__ import annotations

from typing import Any

from engine_stage import QuietTelemetry
from fractal_rm.adapters.clock import SystemClock
from fractal_rm.config.model import Rest
from fractal_rm.domain.flow import Flow
from fractal_rm.web import RestService
from fractal_rm.web.access import NoTokens

UNUSED: Any = None  # no trigger is sent


def make_service(rest: Rest, title: str = "", telemetry=None) -> RestService:
    """A service with one flow. A long title makes the list of flows large."""
    return RestService(
        rest,
        intake=UNUSED,
        history=UNUSED,
        flows=lambda: {"1": Flow("1", title)},
        names=frozenset,
        max_trigger_bytes=lambda: 1_000,
        clock=SystemClock(),
        telemetry=telemetry or QuietTelemetry(),
        authenticator=NoTokens(),
        node_ids=dict,
        store_draining=UNUSED,
    )
