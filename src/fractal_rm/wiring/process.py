"""Runs a node in this process: makes its dependencies, starts it, and stops it at a signal."""

from __future__ import annotations

import asyncio
import codecs
import errno
import gc
import os
from collections.abc import Callable, Coroutine, Iterable
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from fractal_rm.adapters.balancer import make_balancer
from fractal_rm.adapters.clock import NodeClock, SystemClock
from fractal_rm.adapters.http1 import Http1Caller
from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.no_mqtt import NoMqtt
from fractal_rm.adapters.node_id import stored_node_id, stored_store_id
from fractal_rm.adapters.operating_system import SystemRandom, raise_open_file_limit
from fractal_rm.adapters.peers import HttpPeers
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.adapters.telemetry import LogLevel, LogTelemetry, RunLog, flush_log, open_log
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
from fractal_rm.engine.observers import Observers
from fractal_rm.engine.ports import Counting, Intake, PastRuns, Telemetry, WayIn
from fractal_rm.signals import Signals
from fractal_rm.wiring.commands import commands_way_in
from fractal_rm.wiring.history import history_of
from fractal_rm.wiring.metrics import LateMetrics
from fractal_rm.wiring.service import make_service, rereading
from fractal_rm.wiring.traces import make_traces, trace_of
from fractal_rm.wiring.ways_in import RestMaker, certificate_expiry, mqtt_way_in, schedules_way_in

if TYPE_CHECKING:
    from fractal_rm.adapters.mqtt import MqttSession

# For each journal, the journals of other processes that belong to the same node. A process does not
# adopt the runs in these journals: the other process resumes them when it starts again.
OTHER_PROCESSES = {"up": (), "mqtt": ("api",), "api": ("mqtt",)}
ADOPT_INTERVAL_S = 2.0  # the pause between two searches for runs of processes that have ended
WARN_EVERY_S = 86_400.0  # the pause between two warnings of certificates that expire
REPORT_INTERVAL_S = 5.0  # the pause between two searches for open runs that no process handles
MakeWayIn = Callable[[Dependencies, Config, Intake], WayIn]
RESERVED_FILES = 2_500  # for up to 2,000 REST connections, the journal, the broker and the log
_NO_READER = "this is a FIFO that no process reads, a socket, or a terminal that does not exist"
EXIT_STOPPED_TWICE = 130
EXIT_JOURNAL_LOST = 5


class CannotStart(FractalError):
    """The node cannot start. The reason is not the journal, which has its own errors."""

    code = "cannot-start"


def serve(folder: Path, *, mqtt: bool, rest: bool, journal: str) -> int:
    """Run a node until a signal stops it. Returns the exit code.

    ``journal`` is the name of the node's journal in the state folder: ``mqtt``, ``api`` or ``up``.
    Raises ConfigRejected, and any FractalError that prevents the start.
    """
    files = FileWatch(folder)
    compiled = load(folder, os.environ, SystemClock.now_ms())
    files.watch_also(compiled.referenced)
    _open_log(compiled.config)
    _load_codecs(SMALL_CODECS)
    return _run(partial(_serve, compiled, files, journal, mqtt=mqtt, rest=rest))


def _open_log(config: Config) -> None:
    try:
        open_log(config.log_path, config.log_format, config.log_level)
    except OSError as error:
        reason = _NO_READER if error.errno == errno.ENXIO else error.strerror or error
        raise CannotStart(f"log.path {config.log_path}: {reason}") from error


def _load_codecs(names: Iterable[str]) -> None:
    """Load the codecs of responses now. Later, there may be no free file descriptor for it."""
    for codec in names:
        _ = codecs.lookup(codec)


def _run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run on uvloop if it is installed, otherwise on asyncio.

    ``main`` returns a coroutine. It is not a coroutine itself, because a signal may end the process
    during the import of uvloop, and Python would warn of a coroutine that was never awaited.
    """
    try:
        import uvloop  # noqa: PLC0415 - not installed on every machine
    except ImportError:
        return asyncio.run(main())
    return uvloop.run(main())


async def _serve(
    compiled: Compiled, files: FileWatch, journal: str, *, mqtt: bool, rest: bool
) -> int:
    dependencies, session = make_dependencies(compiled.config, journal, mqtt=mqtt)
    metrics = LateMetrics(dependencies)
    makers: dict[str, MakeWayIn] = {"commands": commands_way_in}
    if session is not None:
        makers["mqtt"] = partial(mqtt_way_in, session)
        # Only one process of a node may start flows by time: the process with MQTT.
        makers["schedules"] = schedules_way_in
    if rest:
        makers["rest"] = RestMaker(metrics)
    log_level = LogLevel(
        dependencies.telemetry, dependencies.observers, lambda: dependencies.config.log_level
    )
    log_level.apply_configured()
    dependencies.set_log_level = log_level.set
    node = Node(dependencies, {name: partial(make, dependencies) for name, make in makers.items()})
    dependencies.trace_of = partial(trace_of, node.lifecycle.runs, dependencies)
    if serves_metrics := mqtt and compiled.config.metrics_port is not None:
        _ = metrics.get(node.status)  # count the first triggers, too
    changes = Changes(node, dependencies, files, log_level.apply_configured, texts=compiled.texts)
    service = make_service(node, dependencies)
    signals = Signals(
        dependencies.telemetry,
        reread=rereading(service, changes.reread),
        end_now=_exit_on_second_signal,
        monotonic_s=dependencies.clock.monotonic_s,
        toggle_debug=log_level.toggle,
    )
    traces = make_traces(dependencies)
    for finding in compiled.warnings:
        dependencies.telemetry.problem("config_warning", at=finding.headline())
    try:
        await node.start()
        _reduce_garbage_collection()
        tasks = [
            asyncio.create_task(coroutine)
            for coroutine in (
                changes.watch(),
                _report_unhandled_runs(node, dependencies, journal),
                _adopt_runs(node, dependencies),
                _warn_of_certificates(dependencies),
                *([metrics.serve(node.status)] if serves_metrics else []),
            )
        ]
        service.ready()
        await signals.stop.wait()
        service.stopping()
        dependencies.telemetry.event(
            "stopping",
            unfinished=node.unfinished,
            at_most_s=dependencies.config.bounds.drain_s,
            note="a second signal ends the process immediately; no accepted run is lost",
        )
        for task in tasks:
            task.cancel()
    finally:
        await node.drain()
        if traces is not None:
            await traces.close()
        service.close()
    dependencies.telemetry.event("stopped", left_for_next_start=node.unfinished)
    return 0


async def _report_unhandled_runs(node: Node, dependencies: Dependencies, journal: str) -> None:
    """Write the ids of open runs that no process handles to a file for `audit`, until cancelled."""
    state, written_ids = Path(dependencies.config.state_path), None
    while True:
        try:
            run_ids = node.find_unhandled_runs()
            if run_ids != written_ids:
                await asyncio.to_thread(write_unhandled_runs, state, journal, run_ids)
                written_ids = run_ids
        except Exception as error:  # noqa: BLE001 - the top of the task
            bug = None if isinstance(error, OSError) else error  # logged with its traceback
            dependencies.telemetry.problem(
                "unhandled_runs_not_reported", reason=repr(error), exc_info=bug
            )
        await asyncio.sleep(REPORT_INTERVAL_S)


async def _adopt_runs(node: Node, dependencies: Dependencies) -> None:
    """Adopt the runs of processes that have ended, until cancelled.

    Write the ids of runs that could not be adopted to a file for `audit`.
    """
    state, written_ids = Path(dependencies.config.state_path), dict[str, list[str]]()
    while True:
        try:
            for adopted in await node.adopt():
                if written_ids.get(adopted.journal, []) != adopted.remaining:
                    await asyncio.to_thread(
                        write_unhandled_runs, state, adopted.journal, adopted.remaining
                    )
                    written_ids[adopted.journal] = adopted.remaining
        except Exception as error:  # noqa: BLE001 - the top of the task
            bug = None if isinstance(error, (OSError, JournalError)) else error
            dependencies.telemetry.problem("runs_not_adopted", reason=str(error), exc_info=bug)
        await asyncio.sleep(ADOPT_INTERVAL_S)


async def _warn_of_certificates(dependencies: Dependencies) -> None:
    """Log the certificates that expire soon, now and once a day, until cancelled."""
    expiry = certificate_expiry(dependencies)
    while True:
        for warning in await asyncio.to_thread(expiry.warnings):
            dependencies.telemetry.problem("certificate_expires", why=warning)
        await asyncio.sleep(WARN_EVERY_S)


def _can_execute(mqtt: bool) -> Callable[[Run], bool]:
    """Return a function that says whether this process can execute a run of another process.

    A process without MQTT cannot execute a run with a PUBLISH step or a reply topic. It cannot
    execute a run with a RUN step either, because the sub-flow may publish.
    """
    return lambda run: (
        mqtt
        or not (
            run.accepted.reply_topic is not UNSET
            or any(isinstance(step, (Publish, SubFlow)) for step in run.flow.steps)
        )
    )


def make_dependencies(
    config: Config, journal: str, *, mqtt: bool, synchronous: str = "FULL"
) -> tuple[Dependencies, MqttSession | None]:
    """Make the real adapters for a configuration. ``synchronous`` is the setting of SQLite.

    Returns the dependencies and the MQTT session, which is None unless ``mqtt`` is true.
    """
    telemetry = LogTelemetry(NodeClock.monotonic_s, lambda run: dependencies.trace_of(run))  # noqa: PLW0108 - made below
    connections = _open_file_limit(config, telemetry) // 2
    caller = Http1Caller(max_idle=connections)
    state = Path(config.state_path)
    clock, random = NodeClock(state, telemetry), SystemRandom()
    counting = Counting()
    observers = Observers((RunLog(telemetry, clock.steady_ms),), telemetry)
    session = None
    if mqtt:
        from fractal_rm.adapters.mqtt import MqttSession  # noqa: PLC0415 - rm_api needs no MQTT

        session = MqttSession(state, clock, random, telemetry, caller.connector.with_own_resolver)
    path = state / f"{journal}.journal"
    log_journal = open_journal(
        path,
        synchronous=synchronous,
        limits=lambda: _history_limits(dependencies.config.bounds),
        retention_ms=clock.retention_ms,
        on_lost=lambda error: _exit_on_lost_journal(telemetry, error),
        not_adopted=OTHER_PROCESSES[journal],
        can_execute=_can_execute(mqtt),
        counting=counting,
    )
    history_of(state).read_memory_of(path, log_journal.unprojected)
    dependencies = Dependencies(
        config=config,
        journal=log_journal,
        components=caller,
        peers=HttpPeers(caller),
        make_balancer=partial(make_balancer, caller),
        publisher=NoMqtt() if session is None else session.publisher,
        clock=clock,
        random=random,
        telemetry=telemetry,
        stored_id=cache(partial(stored_node_id, state, random)),
        stored_store_id=partial(stored_store_id, state, random),
        connections=connections,
        make_past_runs=partial(_past_runs, state),
        observers=observers,
        journal_name=journal,
        counting=counting,
    )
    return dependencies, session


def _past_runs(state: Path) -> PastRuns:
    """What reads ended runs."""
    return history_of(state)


def _history_limits(bounds: Bounds) -> HistoryLimits:
    return HistoryLimits(
        bounds.history_s, bounds.history_bytes, bounds.history_failed_s,
        bounds.history_failed_bytes,
    )  # fmt: skip


def _open_file_limit(config: Config, telemetry: Telemetry) -> int:
    """Raise the limit of open files, and return it. Log a problem if it is too low for the runs."""
    allowed, needed = raise_open_file_limit(), config.bounds.max_inflight_runs + RESERVED_FILES
    if allowed < needed:
        telemetry.problem("few_open_files", allowed=allowed, wanted=needed, cure="ulimit -n")
        _load_lazy_modules()
    return allowed


def _load_lazy_modules() -> None:
    """Load modules that are otherwise loaded at their first use.

    Call this only on a node with few file descriptors, where loading a module later could fail.
    Other nodes use less memory without these modules.
    """
    _load_codecs(LARGE_CODECS)
    modules = ("fractal_rm.domain.value_path", "fractal_rm.engine.actions", "_strptime")
    for module in modules:
        _ = import_module(module)


def _reduce_garbage_collection() -> None:
    """Run the garbage collector less often. With its default, it took a quarter of the CPU time.

    The collector examines all runs in flight, which are not garbage. Most objects are freed without
    the collector, when their last reference is deleted. Only reference cycles need the collector;
    they are rare, and are now freed later.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(400_000, 20, 100)


def _exit_on_lost_journal(telemetry: LogTelemetry, error: FractalError) -> None:
    """Exit after a failed fsync. No run may continue, as the content of the disk is unknown."""
    telemetry.problem("journal_lost", reason=str(error))
    flush_log()
    os._exit(EXIT_JOURNAL_LOST)


def _exit_on_second_signal() -> None:
    """Exit at a second signal. No accepted run is lost, because the journal has all of them."""
    flush_log()
    os._exit(EXIT_STOPPED_TWICE)
