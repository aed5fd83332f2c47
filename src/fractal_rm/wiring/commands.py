"""Makes the way in of commands: the local socket, and what its requests do in this process."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fractal_rm.adapters.local_socket.server import LocalSocket
from fractal_rm.adapters.local_socket.socket_file import socket_path
from fractal_rm.config.model import Config
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.ports import Intake, WayIn

if TYPE_CHECKING:
    from fractal_rm.adapters.local_socket.requests import Requests


def commands_way_in(
    journal: str, dependencies: Dependencies, config: Config, intake: Intake
) -> WayIn:
    """The way in of commands. ``journal`` is the name of this process's journal."""
    return LocalSocket(
        socket_path(Path(config.state_path), journal),
        partial(_requests, journal, dependencies, intake),
        dependencies.telemetry,
    )


def _requests(journal: str, dependencies: Dependencies, intake: Intake) -> Requests:
    """What answers requests. It is imported at the first connection."""
    from fractal_rm.adapters.local_socket.folder_actions import (  # noqa: PLC0415
        FolderActions,
        OwnProcess,
    )
    from fractal_rm.adapters.local_socket.requests import Requests  # noqa: PLC0415
    from fractal_rm.adapters.sqlite import SqliteHistory  # noqa: PLC0415
    from fractal_rm.domain.actions import ActionDone, ActionRequest, CannotActNow  # noqa: PLC0415

    state = Path(dependencies.config.state_path)

    async def act(request: ActionRequest) -> ActionDone:
        raise CannotActNow(f"{type(request.action).__name__} is not possible yet")

    folder_actions = FolderActions(state, SqliteHistory(state), OwnProcess(journal, act))
    return Requests(
        intake,
        act,
        folder_actions,
        status=intake.status,
        set_log_level=lambda level: level,
    )
