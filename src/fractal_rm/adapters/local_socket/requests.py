"""Does what the requests of the local socket ask, in the process that has received them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

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
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.trigger import Arrival, TriggerSource
from fractal_rm.engine.ports import Intake
from fractal_rm.engine.ports.actions import Actions


class Requests:
    """Answers requests. ``act`` acts on the runs of this process, ``folder_actions`` on all.

    ``status`` and ``set_log_level`` describe and change this process; the latter may raise
    ActionRefused.
    """

    def __init__(
        self,
        intake: Intake,
        act: Callable[[ActionRequest], Awaitable[ActionDone]],
        folder_actions: Actions,
        *,
        status: Callable[[], Awaitable[NodeStatus]],
        set_log_level: Callable[[str], str],
    ) -> None:
        self._intake = intake
        self._act = act
        self._folder_actions = folder_actions
        self._status = status
        self._set_log_level = set_log_level
        self._begun: set[asyncio.Future[ActionDone]] = set()

    async def answers(self, request: AnyRequest, actor: str) -> AsyncGenerator[AnyAnswer, None]:
        """Do what a request asks. Yields the answers. Raises FractalError if it is refused."""
        match request:
            case Act():
                wanted = ActionRequest(request.action, actor, request.request_id)
                yield Done(await self._complete(self._act(wanted)))
            case ActOnAll():
                bulk = BulkRequest(
                    request.action, request.filter, request.expect, actor, request.request_id
                )
                async for progress in self._folder_actions.act_on_all(bulk):
                    yield Progress(progress)
            case AwaitEnd():
                within_s = min(max(request.within_s, 0.0), MAX_WAIT_S)
                yield Ended.of(await self._intake.outcome(request.run, within_s))
            case AskStatus():
                yield StatusIs(await self._status())
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
