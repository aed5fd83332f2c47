"""Does what the requests of the local socket ask, in the process that has received them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol

from fractal_rm.adapters.local_socket.messages import (
    MAX_WAIT_S,
    Act,
    ActOnAll,
    AnyAnswer,
    AnyRequest,
    AskStatus,
    AwaitEnd,
    Done,
    Ended,
    LevelIs,
    Progress,
    SetLogLevel,
    Started,
    StartRun,
    StatusIs,
)
from fractal_rm.domain.actions import ActionDone, ActionRequest, BulkRequest
from fractal_rm.domain.trigger import Arrival, TriggerSource
from fractal_rm.engine.ports import Intake
from fractal_rm.engine.ports.actions import BulkProgress


class ProcessActions(Protocol):
    """The actions of one process."""

    async def act_here(self, request: ActionRequest) -> ActionDone:
        """Act on a run of this process, or on a flow. Raises ActionRefused."""
        ...

    def act_on_all(self, request: BulkRequest) -> AsyncGenerator[BulkProgress, None]:
        """Act on all matching runs of all processes; see the port `Actions`."""
        ...


class Requests:
    """Answers requests. ``set_log_level`` may raise ActionRefused."""

    def __init__(
        self,
        intake: Intake,
        actions: ProcessActions,
        *,
        set_log_level: Callable[[str], str],
    ) -> None:
        self._intake = intake
        self._actions = actions
        self._set_log_level = set_log_level
        self._begun: set[asyncio.Future[ActionDone]] = set()

    async def answers(self, request: AnyRequest, actor: str) -> AsyncGenerator[AnyAnswer, None]:
        """Do what a request asks. Yields the answers. Raises FractalError if it is refused."""
        match request:
            case Act():
                wanted = ActionRequest(request.action, actor, request.request_id)
                yield Done(await self._complete(self._actions.act_here(wanted)))
            case ActOnAll():
                bulk = BulkRequest(
                    request.action, request.filter, request.expect, actor, request.request_id
                )
                async with aclosing(self._actions.act_on_all(bulk)) as progresses:
                    async for progress in progresses:
                        yield Progress(progress)
            case AwaitEnd():
                within_s = min(max(request.within_s, 0.0), MAX_WAIT_S)
                yield Ended.of(await self._intake.outcome(request.run, within_s))
            case AskStatus():
                yield StatusIs(await self._intake.status())
            case SetLogLevel():
                yield LevelIs(self._set_log_level(request.level))
            case StartRun():
                arrival = Arrival(
                    TriggerSource.COMMAND,
                    bytes(request.payload),
                    key=request.request_id,
                    flow_id=request.flow,
                )
                accepted = await self._intake.receive(arrival)
                yield Started(accepted.run, accepted.duplicate)

    async def complete(self) -> None:
        """Wait until the actions that have begun are done."""
        if self._begun:
            _ = await asyncio.wait(self._begun)

    async def _complete(self, action: Awaitable[ActionDone]) -> ActionDone:
        """Await an action. If the client goes away meanwhile, the action is completed anyway."""
        begun = asyncio.ensure_future(action)
        self._begun.add(begun)
        begun.add_done_callback(self._begun.discard)
        return await asyncio.shield(begun)
