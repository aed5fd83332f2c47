"""Reads comm.conf: the brokers, the REST endpoint, the folders and the bounds of the node."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from fractal_rm.config.model import Bounds, Mqtt, Rest
from fractal_rm.config.mqtt import read_mqtt
from fractal_rm.config.rest import read_rest
from fractal_rm.config.section import FileContext, JsonFile, Section
from fractal_rm.config.telemetry import Telemetry, read_telemetry


class Comm(msgspec.Struct, frozen=True):
    """The settings of comm.conf."""

    mqtt: Mqtt
    rest: Rest
    bounds: Bounds
    node_id: str | None
    telemetry: Telemetry
    state_path: str | None
    editable: bool


def read_comm(comm: Section, has_tokens: Callable[[str | None], bool]) -> Comm:
    """Read comm.conf. In place of a wrong value, returns the default and adds a finding.

    ``has_tokens`` says whether a state folder has tokens; None is the default folder.
    """
    state, node, config = _part(comm, "state"), _part(comm, "node"), _part(comm, "config")
    state_path = state.path("path")
    settings = Comm(
        mqtt=read_mqtt(comm.section("mqtt")),
        rest=read_rest(comm, has_tokens=has_tokens(state_path)),
        bounds=_bounds(comm, state),
        node_id=node.identifier("id", "") or None,
        telemetry=read_telemetry(_part(comm, "log"), _part(comm, "metrics"), _part(comm, "traces")),
        state_path=state_path,
        editable=config.flag("editable", default=True),
    )
    for section in (state, node, config, comm):
        section.finish()
    if state.is_unusable("path"):
        # The state folder is unknown. So it cannot be checked whether the log file is in it.
        telemetry = msgspec.structs.replace(settings.telemetry, log_path=None)
        return msgspec.structs.replace(settings, telemetry=telemetry)
    return settings


def _bounds(comm: Section, state: Section) -> Bounds:
    default = Bounds()
    recovery, history = _part(comm, "recovery"), _part(comm, "history")
    bounds = Bounds(
        max_inflight_runs=state.integer("max_inflight_runs", default.max_inflight_runs, 1, 100_000),
        max_waiting_runs=state.integer("max_waiting_runs", default.max_waiting_runs, 1, 10_000_000),
        max_inflight_bytes=state.integer(
            "max_inflight_bytes", default.max_inflight_bytes, 1 << 20, 1 << 40
        ),
        max_trigger_bytes=comm.integer("max_trigger_bytes", default.max_trigger_bytes, 64, 1 << 30),
        max_evaluated_values=comm.integer(
            "max_evaluated_values", default.max_evaluated_values, 1_000, 1 << 30
        ),
        max_attempts=recovery.integer("max_attempts", default.max_attempts, 1, 100),
        dedup_window_s=state.integer("dedup_window_s", default.dedup_window_s, 1, 366 * 86_400),
        recovery_max_age_s=recovery.integer(
            "max_age_s", default.recovery_max_age_s, 0, 366 * 86_400
        ),
        drain_s=comm.seconds("drain_s", default.drain_s),
        history_s=history.integer("max_age_s", default.history_s, 60, 3660 * 86_400),
        history_bytes=history.integer("max_bytes", default.history_bytes, 1 << 20, 1 << 44),
        history_failed_s=history.integer(
            "failed_max_age_s", default.history_failed_s, 60, 3660 * 86_400
        ),
        history_failed_bytes=history.integer(
            "failed_max_bytes", default.history_failed_bytes, 1 << 20, 1 << 44
        ),
    )
    for section in (recovery, history):
        section.finish()
    return bounds


def _part(comm: Section, key: str) -> Section:
    """Return the section with this key, or an empty section if the key is absent."""
    return comm.section(key) or JsonFile("", "{}", FileContext.without_findings()).section()
