"""Actions on many runs that go on after the response to their request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import cast

from fractal_rm.domain.actions import ActionRefused, BulkRequest
from fractal_rm.engine.ports import Telemetry
from fractal_rm.engine.ports.actions import Actions, BulkProgress

MAX_RUNNING = 4
STOP_LIMIT_S = 3.0  # how long the current run is awaited
MAX_KEPT = 32  # requests whose progress can be asked for; the oldest finished ones are forgotten


class TooManyBulks(ActionRefused):
    """As many requests on many runs are running as there may be."""

    code = "too-many-bulks"
    status = 429
    title = "Too many actions on many runs"


class BulkKeyReused(ActionRefused):
    """The same Idempotency-Key was used for another request."""

    code = "bulk-key-reused"
    status = 422
    title = "This Idempotency-Key was used before"


class Bulk:
    """One request, and its progress.

    ``begun_ms`` and ``ended_ms`` are wall times; ``ended_ms`` is None while it is running.
    """

    def __init__(self, bulk_id: str, request: BulkRequest, begun_ms: int) -> None:
        self.id = bulk_id
        self.begun_ms = begun_ms
        self.ended_ms: int | None = None
        self.request = request
        self.progress = BulkProgress(0)
        self.state = "running"
        self.error = ""
        self.is_stopping = False
        self.task: asyncio.Task[None] | None = None

    @property
    def action(self) -> str:
        """The name of the action."""
        return str(type(self.request.action).__struct_config__.tag)

    @property
    def actor(self) -> str:
        """Who asked for it."""
        return self.request.actor

    async def stop(self) -> None:
        """Stop after the current run. Does nothing if all is done."""
        self.is_stopping = True
        if self.task is not None and not self.task.done():
            _, waiting = await asyncio.wait([self.task], timeout=STOP_LIMIT_S)
            for task in waiting:  # the current run takes long
                _ = task.cancel()
                _ = await asyncio.wait([task])


class Bulks:
    """The requests of this process. `close` stops them.

    ``new_id`` makes ids that cannot be guessed. ``now_ms`` is the wall time.
    """

    def __init__(
        self,
        actions: Actions,
        telemetry: Telemetry,
        new_id: Callable[[], str],
        now_ms: Callable[[], int],
    ) -> None:
        self._now_ms = now_ms
        self._actions = actions
        self._telemetry = telemetry
        self._new_id = new_id
        self._bulks: dict[str, Bulk] = {}

    async def start(self, request: BulkRequest) -> Bulk:
        """Count the runs, and begin with the first one. Raises ActionRefused.

        A request with the same id as an earlier one is not begun again.
        """
        for bulk in self._bulks.values():
            if bulk.request.request_id == request.request_id:
                if bulk.request != request:
                    raise BulkKeyReused("another request on many runs had this Idempotency-Key")
                return bulk
        if sum(bulk.state == "running" for bulk in self._bulks.values()) >= MAX_RUNNING:
            raise TooManyBulks(
                f"{MAX_RUNNING} actions on many runs are running: wait for one, or stop one with"
                " DELETE /v1/bulk/ID"
            )
        bulk = Bulk(self._new_id(), request, self._now_ms())
        self._bulks[bulk.id] = bulk
        # The port says that closing the iterator stops it.
        progress = cast("AsyncGenerator[BulkProgress, None]", self._actions.act_on_all(request))
        try:
            bulk.progress = await anext(progress)
        except BaseException:
            del self._bulks[bulk.id]
            raise
        bulk.task = asyncio.create_task(self._follow(bulk, progress))
        self._forget_oldest()
        return bulk

    async def _follow(self, bulk: Bulk, progress: AsyncGenerator[BulkProgress, None]) -> None:
        """Take the progress until all runs are handled, or until the request is stopped."""
        try:
            async for bulk.progress in progress:
                if bulk.is_stopping:
                    break
            bulk.state = "finished" if bulk.progress.finished else "stopped"
        except asyncio.CancelledError:
            bulk.state = "stopped"
        except ActionRefused as error:
            bulk.state, bulk.error = "failed", str(error)
        except Exception as error:  # noqa: BLE001 - the top of the task
            bulk.state, bulk.error = "failed", "a fault in the Runtime Manager: see its log"
            self._telemetry.problem("bulk_failed", action=bulk.action, exc_info=error)
        finally:
            bulk.ended_ms = self._now_ms()
            await progress.aclose()

    def get(self, bulk_id: str) -> Bulk | None:
        """A request, if it is kept."""
        return self._bulks.get(bulk_id)

    def newest_first(self) -> list[Bulk]:
        """All requests that are kept."""
        return list(reversed(self._bulks.values()))

    async def close(self) -> None:
        """Stop all requests that are running."""
        await asyncio.gather(*(bulk.stop() for bulk in self._bulks.values()))

    def _forget_oldest(self) -> None:
        ended = [bulk.id for bulk in self._bulks.values() if bulk.state != "running"]
        for bulk_id in ended[: max(len(self._bulks) - MAX_KEPT, 0)]:
            del self._bulks[bulk_id]
