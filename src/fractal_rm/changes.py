"""What is asked of a running node by files: another configuration, `pause` and `resume`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from fractal_rm.config.control import read_control
from fractal_rm.config.load import Watch, load
from fractal_rm.config.model import Config
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.findings import ConfigRejected
from fractal_rm.engine.node import Node
from fractal_rm.engine.world import World

POLL_S = 0.5  # how often the five files and the control file are looked at


class Changes:
    """What is asked of a node by files: another configuration, `pause` and `resume`.

    Make it before the node is started: it is paused from the beginning where that was asked for,
    and does not do again what was asked of an earlier process.
    """

    def __init__(self, node: Node, world: World, files: Watch) -> None:
        self._node = node
        self._world = world
        self._files = files
        self._folder = Path(world.config.folder)
        self._state = Path(world.config.state_path)
        control = read_control(self._state)
        node.pause(control.paused)
        self._released_ms = control.release_parked_before_ms

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
        control = read_control(self._state)
        self._node.pause(control.paused)
        if control.release_parked_before_ms > self._released_ms:
            self._released_ms = control.release_parked_before_ms
            released = self._node.release_parked(self._released_ms)
            self._world.telemetry.event("parked_released", runs=released)
        if self._files.changed():
            await self._take_configuration()

    async def _take_configuration(self) -> None:
        """Take it whole, or stay with the one in force and say why (G13)."""
        tell = self._world.telemetry
        try:
            compiled = load(self._folder, os.environ)
        except ConfigRejected as error:
            self._files.refer_to(error.referenced)
            tell.problem("config_rejected", findings=len(error.findings))
            for finding in error.findings:
                tell.problem("config_finding", at=finding.headline())
            return
        if not self._files.still():
            return  # it changed while it was read: the next look sees that
        self._files.refer_to(compiled.referenced)
        for finding in compiled.warnings:
            tell.problem("config_warning", at=finding.headline())
        config = self._for_this_process(compiled.config)
        try:
            await self._node.reconfigure(config)
        except Exception as error:  # noqa: BLE001 - whatever it is, the node is as it was before
            fault = None if isinstance(error, FractalError) else error  # ours: with its traceback
            tell.problem("config_not_taken", reason=str(error), exc_info=fault)
            return
        tell.event("config_taken", digest=config.digest, flows=len(config.flows))

    def _for_this_process(self, config: Config) -> Config:
        """With what only a restart changes as it is: the journal is open, and so is the log."""
        kept = {key: getattr(self._world.config, key) for key in ("state_path", "log_path")}
        for key, value in kept.items():
            if getattr(config, key) != value:
                name = key.replace("_", ".")
                self._world.telemetry.problem("restart_needed", for_the_change_of=name)
        return msgspec.structs.replace(config, **kept)
