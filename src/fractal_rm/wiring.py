"""Join the engine and its adapters into a running node. The only file that knows both."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec

from fractal_rm.adapters.balancer import HttpBalancer
from fractal_rm.adapters.http1 import Http1Caller
from fractal_rm.adapters.mqtt.publisher import MqttPublisher
from fractal_rm.adapters.peers import HttpPeers
from fractal_rm.adapters.sqlite import SqliteHistory, SqliteJournal
from fractal_rm.adapters.telemetry import LogTelemetry, open_log
from fractal_rm.adapters.world import SystemClock, SystemRandom, raise_open_files
from fractal_rm.config.compile import Compiled
from fractal_rm.config.control import Control, read_control
from fractal_rm.config.load import Watch, load
from fractal_rm.config.model import Config
from fractal_rm.config.uncarried import write_uncarried
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.findings import ConfigRejected
from fractal_rm.engine.node import Node
from fractal_rm.engine.ports import Intake, Telemetry, WayIn
from fractal_rm.engine.world import World

STOCK_S = 5.0  # how often open runs are looked through for one that nobody carries
POLL_S = 0.5  # how often the five files and the control file are looked at
MakeForWorld = Callable[[World, Config, Intake], WayIn]
OTHER_FILES = 2_500  # REST connections, at most 2,000, the journal, the broker and the log
EXIT_STOPPED_TWICE = 130
EXIT_JOURNAL_LOST = 5


class CannotStart(FractalError):
    """Something outside of the journal keeps the node from starting."""

    code = "cannot-start"


def serve(folder: Path, *, mqtt: bool, rest: bool, journal: str) -> int:
    """Run a node until it is told to stop. Returns the exit code.

    ``journal`` names its journal in the state folder: ``mqtt``, ``api`` or ``up``. Raises
    ConfigRejected, and any FractalError that keeps the node from starting.
    """
    files = Watch(folder)
    compiled = load(folder, os.environ)
    files.refer_to(compiled.referenced)
    _open_log(compiled.config)
    ways_in: dict[str, MakeForWorld] = {}
    if mqtt:
        ways_in["mqtt"] = _mqtt
        ways_in["schedules"] = _schedules  # in one process: MQTT's, of which there is one
    if rest:
        ways_in["rest"] = _rest
    return _run(_serve(compiled, files, ways_in, journal))


def _open_log(config: Config) -> None:
    try:
        open_log(config.log_path)
    except OSError as error:
        raise CannotStart(f"log.path {config.log_path}: {error.strerror or error}") from error


def _run(main: Coroutine[Any, Any, int]) -> int:
    """On uvloop where it installs; the node runs on plain asyncio all the same."""
    try:
        import uvloop  # noqa: PLC0415 - it is not there on every machine
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


async def _serve(
    compiled: Compiled, files: Watch, ways_in: dict[str, MakeForWorld], journal: str
) -> int:
    world = make_world(compiled.config, journal, mqtt="mqtt" in ways_in)
    node = Node(world, {name: partial(make, world) for name, make in ways_in.items()})
    changes = Changes(node, world, files)
    stop = _stop_signals(world.telemetry)
    for finding in compiled.warnings:
        world.telemetry.problem("config_warning", at=finding.headline())
    try:
        await node.start()
        _calm_garbage_collection()
        watching = asyncio.gather(changes.watch(), _take_stock(node, world, journal))
        await stop.wait()
        world.telemetry.event(
            "stopping",
            unfinished=node.unfinished,
            at_most_s=world.config.bounds.drain_s,
            note="a second signal ends it at once, and nothing is lost",
        )
        watching.cancel()
    finally:
        await node.drain()
    world.telemetry.event("stopped", left_for_next_start=node.unfinished)
    return 0


async def _take_stock(node: Node, world: World, journal: str) -> None:
    """Look for runs that nobody carries, and tell `audit`, until it is cancelled."""
    state, said = Path(world.config.state_path), None
    while True:
        try:
            found = node.take_stock()
            if found != said:
                await asyncio.to_thread(write_uncarried, state, journal, found)
                said = found
        except Exception as error:  # noqa: BLE001 - the top of the task
            fault = None if isinstance(error, OSError) else error
            world.telemetry.problem("stock_not_taken", reason=repr(error), exc_info=fault)
        await asyncio.sleep(STOCK_S)


def make_world(config: Config, journal: str, *, mqtt: bool, synchronous: str = "FULL") -> World:
    """The real adapters for a configuration. ``synchronous`` is SQLite's; tests weaken it.

    ``mqtt``: this process is connected to the broker.
    """
    clock = SystemClock()
    telemetry = LogTelemetry(clock.monotonic_s)
    caller = Http1Caller(kept=_open_files(config, telemetry) // 2)
    state = Path(config.state_path)
    world = World(
        config=config,
        journal=SqliteJournal(
            state / f"{journal}.journal",
            synchronous=synchronous,
            keep=lambda: (world.config.bounds.history_s, world.config.bounds.history_bytes),
            on_lost=lambda error: _end_now(telemetry, error),
        ),
        components=caller,
        peers=HttpPeers(caller),
        balancer=HttpBalancer(caller),
        publisher=MqttPublisher(served=mqtt),
        clock=clock,
        random=SystemRandom(),
        telemetry=telemetry,
    )
    return world


def _open_files(config: Config, telemetry: Telemetry) -> int:
    """How many files this process may open: each run in flight may hold a connection."""
    allowed, wanted = raise_open_files(), config.bounds.max_inflight_runs + OTHER_FILES
    if allowed < wanted:
        telemetry.problem("few_open_files", allowed=allowed, wanted=wanted, cure="ulimit -n")
    return allowed


def _calm_garbage_collection() -> None:
    """Thousands of runs in flight are no garbage: looking through them took a quarter of the CPU.

    What is freed is freed by its last reference; cycles are rare, and are found later.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(400_000, 20, 100)


def _end_now(telemetry: LogTelemetry, error: FractalError) -> None:
    """An fsync failed. What is on the disk is not known any more, so nothing may go on (G7)."""
    telemetry.problem("journal_lost", reason=str(error))
    os._exit(EXIT_JOURNAL_LOST)


def _stop_signals(telemetry: Telemetry) -> asyncio.Event:
    """Set at the first SIGTERM or SIGINT; the second ends the process at once (G6)."""
    stop = asyncio.Event()

    def told() -> None:
        if stop.is_set():
            telemetry.event("ended_by_second_signal")
            os._exit(EXIT_STOPPED_TWICE)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told)
    return stop


# --- the ways in -----------------------------------------------------------------------------


def _mqtt(world: World, config: Config, intake: Intake) -> WayIn:
    from fractal_rm.adapters.mqtt import MqttIntake  # noqa: PLC0415 - rm_api needs no MQTT

    return MqttIntake(
        config.mqtt,
        intake,
        Path(config.state_path),
        world.clock,
        world.random,
        world.telemetry,
        max_trigger_bytes=lambda: world.config.bounds.max_trigger_bytes,
        flows=lambda: world.config.flows,
        publisher=cast("MqttPublisher", world.publisher),  # as `make_world` made it
    )


def _schedules(world: World, config: Config, intake: Intake) -> WayIn:
    from fractal_rm.adapters.schedule import Schedules  # noqa: PLC0415 - rm_api has none

    return Schedules(
        intake,
        Path(config.state_path),
        world.clock,
        world.telemetry,
        flows=lambda: world.config.flows,
    )


def _rest(world: World, config: Config, intake: Intake) -> WayIn:
    from fractal_rm.adapters.rest import RestService  # noqa: PLC0415 - rm_mqtt loads no web stack

    return RestService(
        config.rest,
        intake,
        SqliteHistory(Path(config.state_path)),
        flows=lambda: world.config.flows,
        max_trigger_bytes=lambda: world.config.bounds.max_trigger_bytes,
        telemetry=world.telemetry,
    )


# --- changes on the disk ---------------------------------------------------------------------


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
        self._control = Control(paused=True)  # until it is known what is asked for
        self._unread = ""
        self._follow_control()
        self._released_ms = self._control.release_parked_before_ms

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
        self._follow_control()
        control = self._control
        if control.release_parked_before_ms > self._released_ms:
            self._released_ms = control.release_parked_before_ms
            released = self._node.release_parked(self._released_ms)
            self._world.telemetry.event("parked_released", runs=released)
        if self._files.changed():
            await self._take_configuration()

    def _follow_control(self) -> None:
        """What was asked for last holds while the file cannot be read."""
        try:
            self._control, self._unread = read_control(self._state), ""
        except OSError as error:
            if str(error) != self._unread:
                self._unread = str(error)
                stays = "paused" if self._control.paused else "not paused"
                self._world.telemetry.problem(
                    "control_unread", reason=str(error), so_it_stays=stays
                )
        self._node.pause(self._control.paused)

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
