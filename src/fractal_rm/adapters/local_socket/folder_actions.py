"""The port `Actions` for all processes of a state folder: each run's own process acts on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from fractal_rm.adapters.local_socket.client import NoProcess, ask
from fractal_rm.adapters.local_socket.messages import Act, Done
from fractal_rm.adapters.local_socket.socket_file import socket_path
from fractal_rm.adapters.lock import is_locked
from fractal_rm.domain.actions import (
    ActionDone,
    ActionRequest,
    BulkRequest,
    CannotActNow,
    DecideStep,
    NoSuchTarget,
    PauseFlow,
    Replay,
    ResumeFlow,
    Send,
)
from fractal_rm.engine.bulk import act_on_all
from fractal_rm.engine.ports import History, RunSummary
from fractal_rm.engine.ports.actions import BulkProgress

ANSWER_LIMIT_S = 30.0  # for one action; a disk may be slow
# These actions make a new run, so any process can do them if the process of the ended run has
# ended.
_MAKES_NEW_RUN = (Replay, DecideStep, Send)


@dataclass(frozen=True)
class OwnProcess:
    """The process that has this object. ``act`` acts on the runs of its journal, and on flows."""

    journal: str
    act: Callable[[ActionRequest], Awaitable[ActionDone]]


class FolderActions:
    """Port `Actions`. ``own`` is None in a command, which has no journal.

    A command passes ``sudo_user``; each process that it asks knows the user of the command itself.
    """

    def __init__(
        self, state: Path, history: History, own: OwnProcess | None = None, *, sudo_user: str = ""
    ) -> None:
        self._state = state
        self._history = history
        self._own = own
        self._sudo_user = sudo_user

    async def act(self, request: ActionRequest) -> ActionDone:
        """Do one action, in the process that has the run. Raises ActionRefused, FractalError."""
        if isinstance(request.action, (PauseFlow, ResumeFlow)):
            return await self._act_anywhere(request)
        run_id = request.action.run
        try:
            return await self._act_in(await self._journal_of(run_id), request)
        except NoSuchTarget:  # perhaps another process has adopted the run at this moment
            return await self._act_in(await self._journal_of(run_id), request)

    async def act_on_all(self, request: BulkRequest) -> AsyncGenerator[BulkProgress, None]:
        """Act on all matching runs; see the port. In a process only, not in a command."""

        async def act(one: ActionRequest, run: RunSummary) -> ActionDone:
            try:
                return await self._act_in(run.journal, one)
            except NoSuchTarget:
                return await self.act(one)

        async for progress in act_on_all(request, self._history, act):
            yield progress

    def sockets(self) -> list[Path]:
        """The sockets of the other processes. Some of these processes may have ended."""
        own = None if self._own is None else socket_path(self._state, self._own.journal)
        return [path for path in sorted(self._state.glob("*.sock")) if path != own]

    async def _journal_of(self, run_id: str) -> str:
        """The name of the journal that has a run. Raises NoSuchTarget."""
        detail = await asyncio.to_thread(self._history.run, run_id)
        if detail is None:
            raise NoSuchTarget(f"no journal of this node has a run {run_id[:40]}", run=run_id)
        return detail.summary.journal

    async def _act_in(self, journal: str, request: ActionRequest) -> ActionDone:
        """Act in the process that has a journal."""
        if self._own is not None and journal == self._own.journal:
            return await self._own.act(request)
        try:
            return await self._ask(socket_path(self._state, journal), request)
        except NoProcess:
            if not isinstance(request.action, _MAKES_NEW_RUN):
                raise self._not_running(journal) from None
        try:
            return await self._act_anywhere(request)
        except NoProcess:
            raise self._not_running(journal) from None

    async def _act_anywhere(self, request: ActionRequest) -> ActionDone:
        """Act in this process, otherwise in any running one. Raises NoProcess, ActionRefused."""
        if self._own is not None:
            return await self._own.act(request)
        for path in self.sockets():
            try:
                return await self._ask(path, request)
            except NoProcess:  # noqa: PERF203 - the socket file of a killed process
                continue
        raise NoProcess(f"no process runs for the state folder {self._state}")

    async def _ask(self, path: Path, request: ActionRequest) -> ActionDone:
        message = Act(
            action=request.action,
            request_id=request.request_id,
            sudo_user=self._sudo_user,
            on_behalf_of="" if self._own is None else request.actor,
        )
        answer = await ask(path, message, Done, ANSWER_LIMIT_S)
        return answer.done

    def _not_running(self, journal: str) -> CannotActNow:
        """The refusal if no process listens that has the journal open."""
        if is_locked(self._state / f"{journal}.lock"):
            return CannotActNow(
                f"the process that has {journal}.journal open receives no commands;"
                " the event commands_not_received in its log says why"
            )
        return CannotActNow(
            f"the run is in {journal}.journal, and its process does not run:"
            f" start it (`fractal-rm {journal}`), and repeat this"
        )
