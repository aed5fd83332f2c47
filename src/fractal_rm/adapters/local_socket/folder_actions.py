"""The port `Actions` for all processes of a state folder: each run's own process acts on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from fractal_rm.adapters.local_socket.client import NoProcess, ask, ask_all
from fractal_rm.adapters.local_socket.messages import Act, ActOnAll, Done, Progress
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
    WrongState,
)
from fractal_rm.engine.bulk import act_on_all
from fractal_rm.engine.ports import History, RunSummary
from fractal_rm.engine.ports.actions import BulkProgress

ANSWER_LIMIT_S = 30.0  # for one action; a disk may be slow
# These actions make a new run, so any process can do them if the process of the ended run has
# ended.
_MAKES_NEW_RUN = (Replay, DecideStep, Send)

# How the process of each journal is started.
_STARTS = {
    "up": "`fractal-rm up`",
    "mqtt": "`fractal-rm mqtt` or rm_mqtt.py",
    "api": "`fractal-rm api` or rm_api.py",
}


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
        run = await self._run(request.action.run)
        try:
            return await self._act_in(run.journal, request)
        except NoSuchTarget:
            # Perhaps another process has adopted the run at this moment, or it has ended.
            now = await self._run(run.id)
            if now.journal != run.journal:
                return await self._act_in(now.journal, request)
            if now.state.final:
                raise WrongState(
                    f"run {run.id} has ended as {now.state.value}", run=run.id, state=now.state
                ) from None
            raise

    async def act_here(self, request: ActionRequest) -> ActionDone:
        """Act on a run of this process, or on a flow. Raises ActionRefused."""
        if self._own is None:
            raise self._no_process()
        return await self._own.act(request)

    async def act_on_all(self, request: BulkRequest) -> AsyncGenerator[BulkProgress, None]:
        """Act on all matching runs; see the port. A command lets a running process do this.

        Raises NoProcess, NoAnswer.
        """
        if self._own is None:
            async with aclosing(self._let_another_act(request)) as progresses:
                async for progress in progresses:
                    yield progress
            return

        async def act(one: ActionRequest, run: RunSummary) -> ActionDone:
            try:
                return await self._act_in(run.journal, one)
            except NoSuchTarget:
                return await self.act(one)

        async with aclosing(act_on_all(request, self._history, act)) as progresses:
            async for progress in progresses:
                yield progress

    def sockets(self) -> list[Path]:
        """The sockets of the other processes. Some of these processes may have ended."""
        own = None if self._own is None else socket_path(self._state, self._own.journal)
        return [path for path in sorted(self._state.glob("*.sock")) if path != own]

    async def _run(self, run_id: str) -> RunSummary:
        """A run as it is now. Raises NoSuchTarget."""
        detail = await asyncio.to_thread(self._history.run, run_id)
        if detail is None:
            raise NoSuchTarget(f"no journal of this node has a run {run_id[:40]}", run=run_id)
        return detail.summary

    async def _let_another_act(self, request: BulkRequest) -> AsyncGenerator[BulkProgress, None]:
        """Let any running process act on all matching runs. Raises NoProcess, ActionRefused."""
        message = ActOnAll(
            action=request.action,
            filter=request.filter,
            expect=request.expect,
            request_id=request.request_id,
            sudo_user=self._sudo_user,
        )
        for path in self.sockets():
            try:
                async with aclosing(ask_all(path, message, ANSWER_LIMIT_S)) as answers:
                    async for answer in answers:
                        if isinstance(answer, Progress):
                            yield answer.progress
            except NoProcess:  # noqa: PERF203 - the socket file of a killed process
                continue
            else:
                return
        raise self._no_process()

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
        raise self._no_process()

    async def _ask(self, path: Path, request: ActionRequest) -> ActionDone:
        message = Act(
            action=request.action,
            request_id=request.request_id,
            sudo_user=self._sudo_user,
            on_behalf_of="" if self._own is None else request.actor,
        )
        answer = await ask(path, message, Done, ANSWER_LIMIT_S)
        return answer.done

    def _no_process(self) -> NoProcess:
        return NoProcess(
            f"no process of this node runs (state folder {self._state}), so nothing was done:"
            " start `fractal-rm up`, or rm_mqtt.py and rm_api.py"
        )

    def _not_running(self, journal: str) -> CannotActNow:
        """The refusal if no process listens that has the journal open."""
        if is_locked(self._state / f"{journal}.lock"):
            return CannotActNow(
                f"the process that has {journal}.journal open receives no commands;"
                " the event commands_not_received in its log says why"
            )
        return CannotActNow(
            f"the run is in {journal}.journal, and the process of this journal does not run:"
            f" start it ({_STARTS.get(journal, journal)}), and repeat this"
        )
