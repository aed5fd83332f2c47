"""Join the engine and its adapters into a running node. The only file that knows both."""

from __future__ import annotations

import asyncio
import codecs
import errno
import gc
import os
import sys
from collections.abc import Callable, Coroutine, Iterable
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fractal_rm.adapters.balancer import make_balancer
from fractal_rm.adapters.clock import NodeClock
from fractal_rm.adapters.http1 import Http1Caller
from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.no_mqtt import NoMqtt
from fractal_rm.adapters.node_id import stored_node_id
from fractal_rm.adapters.operating_system import SystemRandom, raise_open_file_limit
from fractal_rm.adapters.peers import HttpPeers
from fractal_rm.adapters.peers.known import KnownPeersFile
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.adapters.telemetry import LogTelemetry, RunLog, flush_log, open_log
from fractal_rm.changes import Changes
from fractal_rm.config.compile import Compiled
from fractal_rm.config.load import FileWatch, load
from fractal_rm.config.model import Bounds, Config
from fractal_rm.config.unhandled_runs import write_unhandled_runs
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.flow import Publish, SubFlow
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.result import LARGE_CODECS, SMALL_CODECS
from fractal_rm.domain.run import Run
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.node import Node
from fractal_rm.engine.ports import Intake, Telemetry, WayIn
from fractal_rm.signals import Signals

if TYPE_CHECKING:
    from fractal_rm.adapters.mqtt import MqttSession

# Which process runs beside this one, by its journal, and takes up its own runs when it is back.
BESIDE = {"up": (), "mqtt": ("api",), "api": ("mqtt",)}
ADOPT_S = 2.0  # how often it is looked for runs that another process has left
STOCK_S = 5.0  # how often open runs are looked through for one that nobody carries
MakeForWorld = Callable[[Dependencies, Config, Intake], WayIn]
OTHER_FILES = 2_500  # REST connections, at most 2,000, the journal, the broker and the log
EXIT_STOPPED_TWICE = 130
_NO_READER = "it is a FIFO that nobody reads, a socket, or there is no terminal"
EXIT_JOURNAL_LOST = 5


class CannotStart(FractalError):
    """Something outside of the journal keeps the node from starting."""

    code = "cannot-start"


def serve(folder: Path, *, mqtt: bool, rest: bool, journal: str) -> int:
    """Run a node until it is told to stop. Returns the exit code.

    ``journal`` names its journal in the state folder: ``mqtt``, ``api`` or ``up``. Raises
    ConfigRejected, and any FractalError that keeps the node from starting.
    """
    files = FileWatch(folder)
    compiled = load(folder, os.environ)
    files.watch_also(compiled.referenced)
    _open_log(compiled.config)
    _load_codecs(SMALL_CODECS)
    return _run(partial(_serve, compiled, files, journal, mqtt=mqtt, rest=rest))


def _open_log(config: Config) -> None:
    try:
        open_log(config.log_path)
    except OSError as error:
        why = _NO_READER if error.errno == errno.ENXIO else error.strerror or error
        raise CannotStart(f"log.path {config.log_path}: {why}") from error


def _load_codecs(names: Iterable[str]) -> None:
    """Those of answers: Python loads one at its first use, when no descriptor may be free."""
    for codec in names:
        _ = codecs.lookup(codec)


def _run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """On uvloop where it installs; the node runs on plain asyncio all the same.

    It may be told to stop while that is loaded: Python warns of a coroutine that is left then.
    """
    try:
        import uvloop  # noqa: PLC0415 - it is not there on every machine
    except ImportError:
        return asyncio.run(main())
    return uvloop.run(main())


async def _serve(
    compiled: Compiled, files: FileWatch, journal: str, *, mqtt: bool, rest: bool
) -> int:
    world, session = make_world(compiled.config, journal, mqtt=mqtt)
    ways_in: dict[str, MakeForWorld] = {}
    if session is not None:
        ways_in["mqtt"] = partial(_mqtt, session)
        ways_in["schedules"] = _schedules  # only one process of a node may fire them
    if rest:
        ways_in["rest"] = _rest
    node = Node(world, {name: partial(make, world) for name, make in ways_in.items()})
    changes = Changes(node, world, files)
    signals = Signals(
        world.telemetry,
        reread=changes.reread,
        end_now=_end_at_once,
        monotonic_s=world.clock.monotonic_s,
    )
    for finding in compiled.warnings:
        world.telemetry.problem("config_warning", at=finding.headline())
    try:
        await node.start()
        _calm_garbage_collection()
        beside = [
            asyncio.create_task(each)
            for each in (
                changes.watch(),
                _report_unhandled_runs(node, world, journal),
                _adopt(node, world),
            )
        ]
        await signals.stop.wait()
        world.telemetry.event(
            "stopping",
            unfinished=node.unfinished,
            at_most_s=world.config.bounds.drain_s,
            note="a second signal ends it at once, and nothing is lost",
        )
        for task in beside:
            task.cancel()
    finally:
        await node.drain()
    world.telemetry.event("stopped", left_for_next_start=node.unfinished)
    return 0


async def _report_unhandled_runs(node: Node, world: Dependencies, journal: str) -> None:
    """Look for runs that nobody carries, and tell `audit`, until it is cancelled."""
    state, said = Path(world.config.state_path), None
    while True:
        try:
            found = node.find_unhandled_runs()
            if found != said:
                await asyncio.to_thread(write_unhandled_runs, state, journal, found)
                said = found
        except Exception as error:  # noqa: BLE001 - the top of the task
            fault = None if isinstance(error, OSError) else error
            world.telemetry.problem("stock_not_taken", reason=repr(error), exc_info=fault)
        await asyncio.sleep(STOCK_S)


async def _adopt(node: Node, world: Dependencies) -> None:
    """Take up what processes that have ended have left, and tell `audit` what stays there."""
    state, said = Path(world.config.state_path), dict[str, list[str]]()
    while True:
        try:
            for adopted in await node.adopt():
                if said.get(adopted.journal, []) != adopted.remaining:
                    await asyncio.to_thread(
                        write_unhandled_runs, state, adopted.journal, adopted.remaining
                    )
                    said[adopted.journal] = adopted.remaining
        except Exception as error:  # noqa: BLE001 - the top of the task
            fault = None if isinstance(error, (OSError, JournalError)) else error
            world.telemetry.problem("runs_not_adopted", reason=str(error), exc_info=fault)
        await asyncio.sleep(ADOPT_S)


def _carries(mqtt: bool) -> Callable[[Run], bool]:
    """Whether a run may end in this process that came to another: what it asks for must be here."""
    return lambda run: (
        mqtt
        or not (
            run.reply_topic is not None
            or any(isinstance(step, (Publish, SubFlow)) for step in run.flow.steps)
        )
    )


def make_world(
    config: Config, journal: str, *, mqtt: bool, synchronous: str = "FULL"
) -> tuple[Dependencies, MqttSession | None]:
    """The real adapters for a configuration. ``synchronous`` is SQLite's; tests weaken it.

    ``mqtt``: this process connects to the broker, by the session that is returned.
    """
    telemetry = LogTelemetry(NodeClock.monotonic_s)
    connections = _open_files(config, telemetry) // 2
    caller = Http1Caller(max_idle=connections)
    state = Path(config.state_path)
    clock, random = NodeClock(state, telemetry), SystemRandom()
    session = None
    if mqtt:
        from fractal_rm.adapters.mqtt import MqttSession  # noqa: PLC0415 - rm_api needs no MQTT

        session = MqttSession(state, clock, random, telemetry, caller.connector.with_own_resolver)
    world = Dependencies(
        config=config,
        journal=open_journal(
            state / f"{journal}.journal",
            synchronous=synchronous,
            keep=lambda: _kept(world.config.bounds),
            retention_ms=clock.retention_ms,
            on_lost=lambda error: _end_now(telemetry, error),
            beside=BESIDE[journal],
            carries=_carries(mqtt),
        ),
        components=caller,
        peers=HttpPeers(caller),
        make_balancer=partial(make_balancer, caller),
        publisher=NoMqtt() if session is None else session.publisher,
        clock=clock,
        random=random,
        telemetry=telemetry,
        known_peers=KnownPeersFile(state, telemetry, clock.monotonic_s),
        stored_id=cache(partial(stored_node_id, state, random)),
        connections=connections,
        observers=(RunLog(telemetry, clock.steady_ms),),
    )
    return world, session


def _kept(bounds: Bounds) -> HistoryLimits:
    return HistoryLimits(
        bounds.history_s, bounds.history_bytes, bounds.history_failed_s,
        bounds.history_failed_bytes,
    )  # fmt: skip


def _open_files(config: Config, telemetry: Telemetry) -> int:
    """How many files this process may open: each run in flight may hold a connection."""
    allowed, wanted = raise_open_file_limit(), config.bounds.max_inflight_runs + OTHER_FILES
    if allowed < wanted:
        telemetry.problem("few_open_files", allowed=allowed, wanted=wanted, cure="ulimit -n")
        _load_ahead()
    return allowed


def _load_ahead() -> None:
    """What is loaded at its first use, when no descriptor may be free; other nodes stay smaller."""
    _load_codecs(LARGE_CODECS)
    for module in ("fractal_rm.domain.value_path", "_strptime"):
        _ = import_module(module)


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
    flush_log()
    os._exit(EXIT_JOURNAL_LOST)


def _end_at_once() -> None:
    """Told twice to stop: nothing is lost, as what counts is in the journal."""
    flush_log()
    os._exit(EXIT_STOPPED_TWICE)


# --- the ways in -----------------------------------------------------------------------------


def _mqtt(session: MqttSession, world: Dependencies, config: Config, intake: Intake) -> WayIn:
    from fractal_rm.adapters.mqtt import MqttWayIn  # noqa: PLC0415 - rm_api needs no MQTT

    return MqttWayIn(
        session,
        config.mqtt,
        intake,
        world.clock,
        world.telemetry,
        max_trigger_bytes=lambda: world.config.bounds.max_trigger_bytes,
        flows=lambda: world.config.flows,
    )


def _schedules(world: Dependencies, config: Config, intake: Intake) -> WayIn:
    from fractal_rm.adapters.schedule import Schedules  # noqa: PLC0415 - rm_api has none

    return Schedules(
        intake,
        Path(config.state_path),
        world.clock,
        world.telemetry,
        flows=lambda: world.config.flows,
    )


def _rest(world: Dependencies, config: Config, intake: Intake) -> WayIn:
    # The web framework imports it for pages that are not served here: 0.7 MiB.
    sys.modules.setdefault("yaml", ModuleType("yaml"))
    from fractal_rm.web import RestService  # noqa: PLC0415 - rm_mqtt loads no web stack

    return RestService(
        config.rest,
        intake,
        SqliteHistory(Path(config.state_path)),
        flows=lambda: world.config.flows,
        names=lambda: world.config.own_names,
        max_trigger_bytes=lambda: world.config.bounds.max_trigger_bytes,
        clock=world.clock,
        telemetry=world.telemetry,
    )
