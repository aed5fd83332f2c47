"""Asks the other processes of the state folder: for their status, and to change the log level."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from fractal_rm.adapters.local_socket.client import NoProcess, ask
from fractal_rm.adapters.local_socket.messages import AskStatus, LevelIs, SetLogLevel, StatusIs
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.node_status import NodeStatus

ANSWER_LIMIT_S = 2.0


class Statuses(msgspec.Struct, frozen=True):
    """What processes say. ``silent`` has the names of journals whose process does not answer."""

    processes: list[NodeStatus]
    silent: list[str] = []


class OtherProcesses:
    """``sockets`` returns the sockets of the other processes; some may have ended."""

    def __init__(self, sockets: Callable[[], list[Path]]) -> None:
        self._sockets = sockets

    async def statuses(self) -> Statuses:
        """What each other process does now."""
        silent: list[str] = []

        async def status(path: Path) -> NodeStatus | None:
            try:
                return (await ask(path, AskStatus(), StatusIs, ANSWER_LIMIT_S)).status
            except NoProcess:
                return None
            except FractalError:
                silent.append(path.stem)
                return None

        found = await asyncio.gather(*map(status, self._sockets()))
        return Statuses([each for each in found if each is not None], silent)

    async def set_log_level(self, level: str) -> list[str]:
        """Set the level in each other process. Returns the journals of those that did not do it."""
        failed: list[str] = []

        async def change(path: Path) -> None:
            try:
                _ = await ask(path, SetLogLevel(level=level), LevelIs, ANSWER_LIMIT_S)
            except NoProcess:
                return
            except FractalError:
                failed.append(path.stem)

        _ = await asyncio.gather(*map(change, self._sockets()))
        return failed
