"""Makes the way in of commands: the local socket, and what its requests do in this process."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fractal_rm.adapters.local_socket.server import LocalSocket
from fractal_rm.adapters.local_socket.socket_file import socket_path
from fractal_rm.config.model import Config
from fractal_rm.domain.actions import ActionDone, ActionRequest, DecideOffer, PauseFlow, ResumeFlow
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.ports import Intake, WayIn
from fractal_rm.wiring.history import history_of

if TYPE_CHECKING:
    from fractal_rm.adapters.local_socket.folder_actions import FolderActions
    from fractal_rm.adapters.local_socket.requests import Requests


def commands_way_in(dependencies: Dependencies, config: Config, intake: Intake) -> WayIn:
    """The way in of commands."""
    return LocalSocket(
        socket_path(Path(config.state_path), dependencies.journal_name),
        partial(_requests, dependencies, intake),
        dependencies.telemetry,
    )


def folder_actions(dependencies: Dependencies, intake: Intake) -> FolderActions:
    """The port `Actions` for all processes of the state folder, as this process sees them."""
    from fractal_rm.adapters.local_socket import (  # noqa: PLC0415
        flow_pauses,
        folder_actions,
        offer_decisions,
    )

    state = Path(dependencies.config.state_path)
    history = history_of(state)
    decisions = offer_decisions.OfferDecisions(
        intake, history, dependencies.telemetry, dependencies.clock.monotonic_s
    )
    pauses = flow_pauses.FlowPauses(
        state,
        lambda: dependencies.config.flows,
        dependencies.clock.now_ms,
        intake.pause_flows,
    )

    async def act(request: ActionRequest) -> ActionDone:
        if isinstance(request.action, (PauseFlow, ResumeFlow)):
            return await pauses.act(request.action, request.actor)
        if isinstance(request.action, DecideOffer):
            return await decisions.act(request.action, request.actor)
        return await intake.act(request)

    own = folder_actions.OwnProcess(dependencies.journal_name, act)
    return folder_actions.FolderActions(state, history, own)


def _requests(dependencies: Dependencies, intake: Intake) -> Requests:
    """What answers requests. It is imported at the first connection."""
    from fractal_rm.adapters.local_socket.requests import Requests  # noqa: PLC0415

    actions = folder_actions(dependencies, intake)
    return Requests(intake, actions, set_log_level=dependencies.set_log_level)
