"""Watches the configuration files and the control file, and applies changes to a running node.

The commands `pause`, `resume` and `drain` write the control file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from fractal_rm.config.applied import CHANGED_FILES, store_applied
from fractal_rm.config.compile import Compiled
from fractal_rm.config.control import Control, read_control
from fractal_rm.config.load import FileWatch, load
from fractal_rm.config.model import Config
from fractal_rm.config.restart import ONLY_AT_START, needs_restart
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.findings import ConfigRejected
from fractal_rm.domain.journal_errors import JournalMoved
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.node import Node

POLL_S = 0.5  # the pause between two checks of the configuration files and the control file
RETRY_S = 5.0  # the pause before the first retry of a failed change; then the pause doubles
MAX_RETRY_S = 60.0


class Changes:
    """Watches the files, and applies their changes to the node.

    Create this object before the node starts, so that the node starts paused or draining if the
    control file says so. The control file may also contain an old request to release parked runs.
    It has no effect, because an earlier process has handled it.

    ``on_applied`` is called when a configuration was applied. ``texts`` are the files with which
    the node starts.
    """

    def __init__(
        self,
        node: Node,
        dependencies: Dependencies,
        files: FileWatch,
        on_applied: Callable[[], None] = lambda: None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        self._node = node
        self._on_applied = on_applied
        self._dependencies = dependencies
        self._files = files
        self._folder = Path(dependencies.config.folder)
        self._state = Path(dependencies.config.state_path)
        self._control = Control(paused=True)  # the node is paused until the file can be read
        self._control_error = ""
        self._applied_release_ms: int | None = None
        self._retry_at_s: float | None = None  # the time of the next retry, or None
        self._retry_s = RETRY_S
        self._reported_reasons: list[str] = []  # why the new configuration was not applied
        self._rereads: list[asyncio.Future[str]] = []  # requests of `reread` that are not done
        self._to_store = (
            None if texts is None else (f'start of "{dependencies.journal_name}"', texts)
        )
        self._apply_control()

    def reread(self) -> asyncio.Future[str]:
        """Make the next check read the configuration and log the result, even without a change.

        The future is done when the files were read. Its result is one line for people.
        """
        self._retry_at_s, self._retry_s = self._dependencies.clock.monotonic_s(), RETRY_S
        self._reported_reasons = []
        reread = asyncio.get_running_loop().create_future()
        self._rereads.append(reread)
        return reread

    async def watch(self) -> None:
        """Check the files every `POLL_S` seconds and apply their changes. Never returns."""
        while True:
            try:
                await self.apply()
            except Exception as error:  # noqa: BLE001 - the top of the task
                # This task must not end. Without it, the node would apply no pause and no new
                # configuration. And once the disk had been full, it would accept no more triggers.
                self._dependencies.telemetry.problem(
                    "watch_failed", error=repr(error), exc_info=error
                )
            await asyncio.sleep(POLL_S)

    async def apply(self) -> None:
        """Check the files once, and apply their changes."""
        self._node.watch_journal()
        await self._node.watch_clock()
        self._apply_control()
        await self._store_applied()
        if self._files.changed():
            self._retry_s = RETRY_S
            await self._apply_configuration()
        elif (
            self._retry_at_s is not None
            and self._dependencies.clock.monotonic_s() >= self._retry_at_s
        ):
            await self._apply_configuration()
        else:
            return
        if self._files.unchanged():
            self._answer_rereads()

    def _answer_rereads(self) -> None:
        """Complete the requests of `reread` after the files were read."""
        reasons = self._reported_reasons
        answer = "the configuration is in use"
        if reasons:
            answer = f"the new configuration is not in use ({len(reasons)} reasons): {reasons[0]}"
        rereads, self._rereads = self._rereads, []
        for reread in rereads:
            reread.set_result(answer)

    # --- pause, resume and drain --------------------------------------------------------------

    def _apply_control(self) -> None:
        """Apply the control file.

        If it is unreadable, the node stays as it is: paused or not, draining or not. If the folder
        of the journal is missing, do nothing.
        """
        if isinstance(self._dependencies.journal.blocked, JournalMoved):
            return
        try:
            self._control = read_control(self._state)
        except OSError as error:
            self._report_unreadable(str(error))
        else:
            self._control_error = ""
            if self._applied_release_ms is None:
                self._applied_release_ms = self._control.release_parked_before_ms
        self._node.pause(self._control.paused)
        self._node.set_draining(self._control.draining)
        self._node.pause_flows(self._control.paused_flows)
        if self._applied_release_ms not in (None, self._control.release_parked_before_ms):
            self._applied_release_ms = self._control.release_parked_before_ms
            run_count = self._node.release_parked()
            self._dependencies.telemetry.event("parked_released", runs=run_count)

    def _report_unreadable(self, reason: str) -> None:
        if reason != self._control_error:
            self._control_error = reason
            state = "paused" if self._control.paused else "not paused"
            if self._control.draining:
                state += ", draining"
            self._dependencies.telemetry.problem("control_unreadable", reason=reason, still=state)

    # --- configuration ------------------------------------------------------------------------

    async def _apply_configuration(self) -> None:
        """Apply the new configuration. If this fails, keep the current one and log the reason.

        If the content of a file has an error, the node waits until a file changes. Any other error
        may be temporary: an unreadable file, a port in use, a fault in this program. So the node
        tries again later.
        """
        self._files.accept()
        planned_s = self._retry_at_s = self._dependencies.clock.monotonic_s() + self._retry_s
        self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)
        try:
            # Read in a thread, because a file may be large and the disk may be slow.
            now_ms = self._dependencies.clock.now_ms()
            compiled = await asyncio.to_thread(load, self._folder, os.environ, now_ms)
        except ConfigRejected as error:
            self._files.watch_also(error.referenced)
            if not error.has_unreadable_file:
                self._cancel_retry(planned_s)
            self._report_rejected(error)
            return
        if not self._files.unchanged():
            return  # a file changed while the files were read; the next check detects this
        self._files.watch_also(compiled.referenced)
        config = self._with_fixed_keys(compiled.config)
        try:
            await self._node.reconfigure(config)
        except Exception as error:  # noqa: BLE001 - after any error, the node keeps its old configuration
            self._report_not_applied(error)
            return
        self._cancel_retry(planned_s)
        self._report_applied(compiled)
        self._to_store = CHANGED_FILES, compiled.texts

    async def _store_applied(self) -> None:
        """Store a configuration that was applied, so that `config rollback` can go back to it."""
        if self._to_store is None or isinstance(self._dependencies.journal.blocked, JournalMoved):
            return
        (by, texts), self._to_store = self._to_store, None
        try:
            now_ms = self._dependencies.clock.now_ms()
            await asyncio.to_thread(store_applied, self._state, texts, by, now_ms)
        except OSError as error:  # the node works without it
            reason = error.strerror or str(error)
            self._dependencies.telemetry.problem("config_not_stored", reason=reason)

    def _cancel_retry(self, planned_s: float) -> None:
        """Cancel the retry that is planned at ``planned_s``, but no later request of `reread`."""
        if self._retry_at_s == planned_s:
            self._retry_at_s = None

    def _with_fixed_keys(self, config: Config) -> Config:
        """Return a copy of ``config`` that has the old values of the keys in `ONLY_AT_START`."""
        fixed = {key: getattr(self._dependencies.config, key) for key in ONLY_AT_START}
        return msgspec.structs.replace(config, **fixed)

    def _reasons_changed(self, *reasons: str) -> bool:
        """Store the reasons, and return whether they differ from those of the last attempt."""
        previous, self._reported_reasons = self._reported_reasons, list(reasons)
        self._dependencies.not_applied = reasons
        return self._reported_reasons != previous

    def _report_rejected(self, error: ConfigRejected) -> None:
        headlines = [finding.headline() for finding in error.findings]
        if self._reasons_changed(*headlines):
            self._dependencies.telemetry.problem("config_rejected", findings=len(headlines))
            for headline in headlines:
                self._dependencies.telemetry.problem("config_finding", at=headline)

    def _report_not_applied(self, error: Exception) -> None:
        if self._reasons_changed(str(error)):
            bug = None if isinstance(error, FractalError) else error  # its traceback is logged
            self._dependencies.telemetry.problem(
                "config_not_applied", reason=str(error), exc_info=bug
            )

    def _report_applied(self, compiled: Compiled) -> None:
        self._reported_reasons = []
        self._dependencies.not_applied = ()
        self._on_applied()
        telemetry, config = self._dependencies.telemetry, self._dependencies.config
        for finding in compiled.warnings:
            telemetry.problem("config_warning", at=finding.headline())
        for key in needs_restart(config, compiled.config):
            telemetry.problem("restart_needed", for_the_change_of=key)
        telemetry.event("config_applied", digest=config.digest, flows=len(config.flows))
