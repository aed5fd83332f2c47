"""Takes the requests of `fractal-rm runs resolve`, and gives them to the node of this process."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fractal_rm.config.decision_request import (
    DecisionRequest,
    RequestNotWritten,
    read_request,
    take_request,
    waiting_runs,
)
from fractal_rm.domain.journal_errors import JournalMoved
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.node import Node

POLL_S = 0.5  # the pause between two searches for requests


class Decisions:
    """Watches the state folder for requests about the open runs of this process."""

    def __init__(self, node: Node, dependencies: Dependencies) -> None:
        self._node = node
        self._dependencies = dependencies
        self._state = Path(dependencies.config.state_path)
        self._reported = ""

    async def watch(self) -> None:
        """Search for requests every `POLL_S` seconds. Never returns."""
        while True:
            try:
                self.take_requests()
                self._reported = ""
            except (OSError, RequestNotWritten) as error:
                self._report(str(error))
            except Exception as error:  # noqa: BLE001 - the top of the task
                self._report(repr(error), error)
            await asyncio.sleep(POLL_S)

    def take_requests(self) -> None:
        """Search for requests once, and give each of them to the node.

        Raises OSError, RequestNotWritten.
        """
        if isinstance(self._dependencies.journal.blocked, JournalMoved):
            return
        for run_id in list(waiting_runs(self._state)):
            request = read_request(self._state, run_id)
            if request is None or not request.is_valid(self._dependencies.clock.now_ms()):
                if take_request(self._state, run_id):
                    why = "the request is old or not valid"
                    self._dependencies.telemetry.problem("decision_ignored", run=run_id, why=why)
            elif self._node.state_of(run_id) is not None and take_request(self._state, run_id):
                self._resolve(request)

    def _resolve(self, request: DecisionRequest) -> None:
        """Give a request to the node."""
        is_in_doubt = self._node.resolve(request.run, request.decision, request.actor)
        self._dependencies.telemetry.event(
            "operator_decided" if is_in_doubt else "decision_not_needed",
            run=request.run,
            decision=request.decision.value,
            by=request.actor,
        )

    def _report(self, reason: str, error: Exception | None = None) -> None:
        """Log why requests cannot be read, once until the next search that succeeds."""
        if reason != self._reported:
            self._reported = reason
            self._dependencies.telemetry.problem(
                "decisions_not_read", reason=reason, exc_info=error
            )
