"""What is asked of a running node by files: another configuration, `pause` and `resume`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from fractal_rm.config.compile import Compiled
from fractal_rm.config.control import Control, read_control
from fractal_rm.config.load import Watch, load
from fractal_rm.config.model import Config
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.findings import ConfigRejected
from fractal_rm.domain.journal_errors import JournalGone
from fractal_rm.engine.node import Node
from fractal_rm.engine.world import World

POLL_S = 0.5  # how often the five files and the control file are looked at
RETRY_S = 5.0  # a change that could not be read or taken is tried again, and later twice as late
RETRY_AT_MOST_S = 60.0
ONLY_AT_START = ("state_path", "log_path")  # the journal is open, and so is the log


class Changes:
    """Takes up what is asked for.

    Make it before the node is started: it is paused from the beginning where that was asked for,
    and does not do again what was asked of an earlier process.
    """

    def __init__(self, node: Node, world: World, files: Watch) -> None:
        self._node = node
        self._world = world
        self._files = files
        self._folder = Path(world.config.folder)
        self._state = Path(world.config.state_path)
        self._control = Control(paused=True)  # until it is known what is asked for
        self._control_unread = ""
        self._released_ms: int | None = None
        self._again_s: float | None = None  # when the configuration is read although none changed
        self._retry_s = RETRY_S
        self._said: list[str] = []  # why it was not taken
        self._follow_control()

    def reread(self) -> None:
        """Read the configuration at the next look, and say what came of it in any case."""
        self._again_s, self._retry_s = self._world.clock.monotonic_s(), RETRY_S
        self._said = []

    async def watch(self) -> None:
        """Take up what changes, within a second, until it is cancelled."""
        while True:
            try:
                await self.take_up()
            except Exception as error:  # noqa: BLE001 - the top of the task
                # Without this task a node can be neither paused nor mended, and a full disk would
                # shut it for good.
                self._world.telemetry.problem("watch_broke", error=repr(error), exc_info=error)
            await asyncio.sleep(POLL_S)

    async def take_up(self) -> None:
        """Look once."""
        self._node.watch_journal()
        await self._node.watch_clock()
        self._follow_control()
        if self._files.changed():
            self._retry_s = RETRY_S
            await self._take_configuration()
        elif self._again_s is not None and self._world.clock.monotonic_s() >= self._again_s:
            await self._take_configuration()

    # --- pause and resume ---------------------------------------------------------------------

    def _follow_control(self) -> None:
        """What was asked for last holds while the file cannot be read, or its folder is away."""
        if isinstance(self._world.journal.blocked, JournalGone):
            return
        try:
            self._control = read_control(self._state)
        except OSError as error:
            self._say_unread(str(error))
        else:
            self._control_unread = ""
            if self._released_ms is None:
                self._released_ms = self._control.release_parked_before_ms
        self._node.pause(self._control.paused)
        if self._released_ms not in (None, self._control.release_parked_before_ms):
            self._released_ms = self._control.release_parked_before_ms
            released = self._node.release_parked()
            self._world.telemetry.event("parked_released", runs=released)

    def _say_unread(self, reason: str) -> None:
        if reason != self._control_unread:
            self._control_unread = reason
            stays = "paused" if self._control.paused else "not paused"
            self._world.telemetry.problem("control_unread", reason=reason, so_it_stays=stays)

    # --- another configuration ----------------------------------------------------------------

    async def _take_configuration(self) -> None:
        """Take it whole, or stay with the one in force and say why (G13).

        What its files say is wrong stays wrong until one changes. All else may pass by itself: that
        a file cannot be read, that a port is taken, a fault of ours. That is tried again.
        """
        self._files.take()
        planned_s = self._again_s = self._world.clock.monotonic_s() + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_AT_MOST_S)
        try:
            # Beside the loop: a file may be large, and its disk slow.
            compiled = await asyncio.to_thread(load, self._folder, os.environ)
        except ConfigRejected as error:
            self._files.refer_to(error.referenced)
            if not error.unread:
                self._not_again(planned_s)
            self._say_rejected(error)
            return
        if not self._files.still():
            return  # it changed while it was read: the next look sees that
        self._files.refer_to(compiled.referenced)
        config = self._for_this_process(compiled.config)
        try:
            await self._node.reconfigure(config)
        except Exception as error:  # noqa: BLE001 - whatever it is, the node is as it was before
            self._say_not_taken(error)
            return
        self._not_again(planned_s)
        self._say_taken(compiled)

    def _not_again(self, planned_s: float) -> None:
        """Give up a planned try; what `reread` has asked for meanwhile stays."""
        if self._again_s == planned_s:
            self._again_s = None

    def _for_this_process(self, config: Config) -> Config:
        """With what only a restart changes as it is."""
        kept = {key: getattr(self._world.config, key) for key in ONLY_AT_START}
        return msgspec.structs.replace(config, **kept)

    def _is_new(self, *said: str) -> bool:
        """Whether something else is said than at the try before."""
        before, self._said = self._said, list(said)
        return self._said != before

    def _say_rejected(self, error: ConfigRejected) -> None:
        headlines = [finding.headline() for finding in error.findings]
        if self._is_new(*headlines):
            self._world.telemetry.problem("config_rejected", findings=len(headlines))
            for headline in headlines:
                self._world.telemetry.problem("config_finding", at=headline)

    def _say_not_taken(self, error: Exception) -> None:
        if self._is_new(str(error)):
            fault = None if isinstance(error, FractalError) else error  # ours: with its traceback
            self._world.telemetry.problem("config_not_taken", reason=str(error), exc_info=fault)

    def _say_taken(self, compiled: Compiled) -> None:
        self._said = []
        tell, read, config = self._world.telemetry, compiled.config, self._world.config
        for finding in compiled.warnings:
            tell.problem("config_warning", at=finding.headline())
        for key in ONLY_AT_START:
            if getattr(config, key) != getattr(read, key):
                tell.problem("restart_needed", for_the_change_of=key.replace("_", "."))
        tell.event("config_taken", digest=config.digest, flows=len(config.flows))
