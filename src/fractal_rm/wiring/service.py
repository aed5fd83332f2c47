"""Tells the service manager when the node is ready, rereads its configuration, hangs, and stops.

Without a service manager, nothing of this is loaded.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.node import Node
from fractal_rm.engine.ports import ReadinessCheck

if TYPE_CHECKING:
    from fractal_rm.adapters.service_manager import ServiceManager

TICK_S = 5.0  # the pause between two looks at the state of the node
STOP_MARGIN_S = 30  # how much longer than `drain_s` a stop may take, until everything is written


class Service:
    """A node as a service. ``watchdog_s``: see `adapters.service_manager.watchdog_s`."""

    def __init__(
        self,
        manager: ServiceManager,
        node: Node,
        dependencies: Dependencies,
        watchdog_s: float | None,
    ) -> None:
        self._manager = manager
        self._node = node
        self._dependencies = dependencies
        self._watchdog_s = watchdog_s
        self._watch: asyncio.Task[None] | None = None
        self._told_status = ""

    def ready(self) -> None:
        """Say that the node is ready, and begin to say regularly that its event loop works."""
        self._watch = asyncio.create_task(self._tell_regularly())
        self._told_status = status_text(self._node.readiness())
        self._manager.notify(READY=1, STATUS=self._told_status)

    def rereads(self, done: asyncio.Future[str]) -> None:
        """Say that the configuration is read again. The result of ``done`` says what came of it."""
        now_us = int(self._dependencies.clock.monotonic_s() * 1_000_000)
        self._manager.notify(RELOADING=1, MONOTONIC_USEC=now_us, STATUS="reads the configuration")
        done.add_done_callback(self._has_reread)

    def _has_reread(self, done: asyncio.Future[str]) -> None:
        if not done.cancelled():
            self._told_status = done.result()
            self._manager.notify(READY=1, STATUS=self._told_status)

    def stopping(self) -> None:
        """Say that the node stops, and how long it may take."""
        limit_s = self._dependencies.config.bounds.drain_s + STOP_MARGIN_S
        self._manager.notify(
            STOPPING=1,
            EXTEND_TIMEOUT_USEC=int(limit_s * 1_000_000),
            STATUS=f"stops; {self._node.unfinished} runs are not finished",
        )

    def close(self) -> None:
        """Stop telling. Call this when the node has stopped."""
        if self._watch is not None:
            self._watch.cancel()
        self._manager.close()

    async def _tell_regularly(self) -> None:
        """Send WATCHDOG=1 from the event loop: if the loop hangs, the node is restarted."""
        tick_s = TICK_S if self._watchdog_s is None else min(TICK_S, self._watchdog_s / 2)
        while True:
            fields: dict[str, object] = {} if self._watchdog_s is None else {"WATCHDOG": 1}
            status = status_text(self._node.readiness())
            if status != self._told_status:
                fields["STATUS"] = self._told_status = status
            if fields:
                self._manager.notify(**fields)
            await asyncio.sleep(tick_s)


class NoService:
    """Does nothing: the node was not started by a service manager."""

    def ready(self) -> None:
        """Do nothing."""

    def rereads(self, done: asyncio.Future[str]) -> None:
        """Do nothing."""

    def stopping(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def make_service(
    node: Node, dependencies: Dependencies, environment: Mapping[str, str] = os.environ
) -> Service | NoService:
    """Make the service of this process. Nothing is imported if NOTIFY_SOCKET is not set."""
    address = environment.get("NOTIFY_SOCKET")
    if not address:
        return NoService()
    from fractal_rm.adapters.service_manager import (  # noqa: PLC0415 - see above
        ServiceManager,
        watchdog_s,
    )

    manager = ServiceManager(address, dependencies.telemetry)
    return Service(manager, node, dependencies, watchdog_s(environment, os.getpid()))


def rereading(
    service: Service | NoService, reread: Callable[[], asyncio.Future[str]]
) -> Callable[[], None]:
    """A function that rereads the configuration, and tells the service manager about it."""
    return lambda: service.rereads(reread())


def status_text(checks: Iterable[ReadinessCheck]) -> str:
    """The state of a node in one line: what is wrong, or how much it has to do."""
    texts = {check.name: check for check in checks}
    wrong = [f"{check.name}: {check.text}" for check in texts.values() if not check.ok]
    return "not ready: " + "; ".join(wrong) if wrong else f"serving; {texts['room'].text}"
