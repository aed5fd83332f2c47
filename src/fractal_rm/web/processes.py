"""The processes of this node: this one, and the others of the state folder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from fractal_rm.adapters.local_socket.other_processes import OtherProcesses, Statuses
from fractal_rm.domain.node_status import NodeStatus


class Processes:
    """Asks all processes. ``status`` and ``set_log_level`` are those of this process.

    ``set_log_level`` returns the level, and may raise ActionRefused.
    """

    def __init__(
        self,
        status: Callable[[], Awaitable[NodeStatus]],
        set_log_level: Callable[[str], str],
        others: OtherProcesses,
    ) -> None:
        self._status = status
        self._set_log_level = set_log_level
        self._others = others

    async def statuses(self) -> Statuses:
        """What each process does now; this one first."""
        own = await self._status()
        others = await self._others.statuses()
        return msgspec.structs.replace(others, processes=[own, *others.processes])

    async def set_log_level(self, level: str) -> list[str]:
        """Set the level of the log. Returns the journals of the processes that did not do it.

        Raises ActionRefused if there is no such level.
        """
        _ = self._set_log_level(level)
        return await self._others.set_log_level(level)
