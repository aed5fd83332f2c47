"""Makes the ways in: MQTT, schedules and REST. Each is imported only in a process that uses it."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from fractal_rm.adapters.sqlite.read.definitions import recorded_flow
from fractal_rm.adapters.tls import CertificateExpiry
from fractal_rm.config.certificates import certificate_files
from fractal_rm.config.control import store_draining
from fractal_rm.config.model import Config
from fractal_rm.config.pair_files import PairFolder
from fractal_rm.config.token_file import TokenFile
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.ports import Intake, WayIn
from fractal_rm.wiring.commands import folder_actions
from fractal_rm.wiring.history import history_of
from fractal_rm.wiring.metrics import LateMetrics

if TYPE_CHECKING:
    from fractal_rm.adapters.mqtt import MqttSession
    from fractal_rm.web.api.metrics import GetMetrics
    from fractal_rm.web.late_operator import LateOperator
    from fractal_rm.web.operator import Operator


def certificate_expiry(dependencies: Dependencies) -> CertificateExpiry:
    """What warns of the certificates of the current configuration."""
    return CertificateExpiry(
        lambda: certificate_files(dependencies.config), dependencies.clock.now_ms
    )


def mqtt_way_in(
    session: MqttSession, dependencies: Dependencies, config: Config, intake: Intake
) -> WayIn:
    """The way in over MQTT, on the connection of ``session``."""
    from fractal_rm.adapters.mqtt import MqttWayIn  # noqa: PLC0415 - rm_api needs no MQTT

    return MqttWayIn(
        session,
        config.mqtt,
        intake,
        dependencies.clock,
        dependencies.telemetry,
        max_trigger_bytes=lambda: dependencies.config.bounds.max_trigger_bytes,
        flows=lambda: dependencies.config.flows,
        counting=dependencies.counting,
    )


def schedules_way_in(dependencies: Dependencies, config: Config, intake: Intake) -> WayIn:
    """The way in of flows that start by time."""
    from fractal_rm.adapters.schedule import Schedules  # noqa: PLC0415 - rm_api has none

    return Schedules(
        intake,
        Path(config.state_path),
        dependencies.clock,
        dependencies.telemetry,
        flows=lambda: dependencies.config.flows,
    )


class RestMaker:
    """Makes the way in over HTTP, for each configuration of ``rest``. It also serves ``metrics``.

    What operators use is made once, so that it goes on when the configuration changes.
    """

    def __init__(self, metrics: LateMetrics) -> None:
        self._metrics = metrics
        self._operator: LateOperator | None = None

    def __call__(self, dependencies: Dependencies, config: Config, intake: Intake) -> WayIn:
        """The way in."""
        # The web framework uses yaml only for pages that are not served here. An empty module in
        # place of yaml saves 0.7 MiB.
        sys.modules.setdefault("yaml", ModuleType("yaml"))
        if self._operator is None:
            from fractal_rm.web.late_operator import LateOperator  # noqa: PLC0415 - see below

            self._operator = LateOperator(partial(_make_operator, dependencies, intake))
        metrics = partial(self._metrics.exposition, intake.status)
        return _rest_way_in(dependencies, config, intake, self._operator, metrics)


def _make_operator(dependencies: Dependencies, intake: Intake) -> Operator:
    from fractal_rm.adapters.local_socket.other_processes import OtherProcesses  # noqa: PLC0415
    from fractal_rm.web.bulks import Bulks  # noqa: PLC0415 - rm_mqtt loads no web stack
    from fractal_rm.web.config_check import ConfigCheck  # noqa: PLC0415
    from fractal_rm.web.live import LiveEvents  # noqa: PLC0415
    from fractal_rm.web.operator import Operator  # noqa: PLC0415
    from fractal_rm.web.processes import Processes  # noqa: PLC0415
    from fractal_rm.web.stories import Stories  # noqa: PLC0415
    from fractal_rm.wiring.draft_cases import DraftCases  # noqa: PLC0415 - imports the simulation
    from fractal_rm.wiring.recorded_cases import RecordedCases  # noqa: PLC0415

    def config() -> Config:
        return dependencies.config

    def folder() -> Path:
        return Path(dependencies.config.folder)

    def new_id() -> str:
        return dependencies.random.token(8).hex()

    clock, telemetry = dependencies.clock, dependencies.telemetry
    actions = folder_actions(dependencies, intake)
    definition = partial(recorded_flow, Path(dependencies.config.state_path))
    others = OtherProcesses(actions.sockets)
    return Operator(
        LiveEvents(
            dependencies.observers, dependencies.counting, intake.status, clock, telemetry, new_id()
        ),
        Processes(intake.status, dependencies.set_log_level, others),
        ConfigCheck(config, os.environ, clock.now_ms),
        Stories(definition, config, clock),
        actions,
        Bulks(actions, telemetry, new_id, clock.now_ms),
        DraftCases(folder).run,
        lambda: dependencies.not_applied,
        RecordedCases(folder).record,
    )


def _rest_way_in(
    dependencies: Dependencies,
    config: Config,
    intake: Intake,
    operator: LateOperator,
    metrics: GetMetrics,
) -> WayIn:
    # rm_mqtt has no clients and needs no access control.
    from fractal_rm.adapters.access import (  # noqa: PLC0415
        BrowserSessions,
        Invitations,
        JoiningNodes,
        Tokens,
    )
    from fractal_rm.web import RestService  # noqa: PLC0415 - rm_mqtt loads no web stack

    clock, telemetry = dependencies.clock, dependencies.telemetry
    state = Path(config.state_path)
    invitations = Invitations(PairFolder(config), clock, telemetry)
    tokens = Tokens(TokenFile(state), clock.now_ms, telemetry, invitations)
    return RestService(
        config.rest,
        intake,
        history_of(state),
        flows=lambda: dependencies.config.flows,
        names=lambda: dependencies.config.own_names,
        max_trigger_bytes=lambda: dependencies.config.bounds.max_trigger_bytes,
        clock=clock,
        telemetry=telemetry,
        authenticator=tokens,
        sessions=BrowserSessions(tokens, state, clock.now_ms, telemetry),
        node_ids=lambda: dependencies.config.node_ids_by_name,
        certificate_warnings=certificate_expiry(dependencies).warnings,
        store_draining=partial(store_draining, state),
        pairing=JoiningNodes(
            Path(config.folder), invitations, clock, dependencies.random, telemetry
        ),
        operator=operator,
        metrics=metrics,
    )
