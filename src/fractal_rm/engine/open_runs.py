"""The runs that have no end yet, and the one place where a fact is both written and applied."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Iterator

from fractal_rm.domain.admission import Load
from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.flow import SubFlow
from fractal_rm.domain.run import Outcome, Run
from fractal_rm.engine.world import World


def origin_of(run: Run, number: int) -> str:
    """Names the step of a run that begins another run."""
    return f"{run.id}:{number}"


def parent_id(origin: str) -> str:
    """The id of the run whose step an origin names."""
    return origin.rpartition(":")[0]


class _Nobody:
    """Waits for the end of a run."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


_NOBODY = _Nobody()


class OpenRuns:
    """Every unfinished run of this process, and who waits for its outcome."""

    def __init__(self, world: World, load: Load) -> None:
        self._load = load
        self._journal = world.journal
        self._clock = world.clock
        self._runs: dict[str, Run] = {}
        self._by_origin: dict[str, Run] = {}
        self._waiting: dict[str, list[asyncio.Future[Outcome | None]]] = {}
        self._letting_go = False

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, run_id: str) -> Run | None:
        """The run, if it is open."""
        return self._runs.get(run_id)

    def add(self, run: Run) -> None:
        """Take in a run that the journal holds."""
        self._runs[run.id] = run
        if run.origin is not None:
            self._by_origin[run.origin] = run

    def child(self, run: Run, number: int) -> Run | None:
        """The open run that a RUN of this one has begun."""
        return self._by_origin.get(origin_of(run, number))

    def children(self, run: Run) -> list[Run]:
        """The open runs that this one has begun, and carries."""
        if not self._by_origin:  # of the many that a start may find, most often none is a child
            return []
        found = [
            self.child(run, step.number) for step in run.flow.steps if isinstance(step, SubFlow)
        ]
        return [child for child in found if child is not None]

    def parent(self, run: Run) -> Run | None:
        """The open run that has begun this one, and carries it."""
        return self._runs.get(parent_id(run.origin)) if run.origin is not None else None

    def write(self, run: Run, fact: AnyFact) -> Awaitable[None]:
        """Apply a fact and hand it to the journal; the awaitable is done when it is durable."""
        had_bytes = run.result_bytes
        run.apply(fact)
        self._load.result_bytes += run.result_bytes - had_bytes
        return self._journal.append_durably(run, fact, self._clock.now_ms())

    def close(self, run: Run, fact: AnyFact) -> Awaitable[None]:
        """Write the last fact of a run. Await what is returned: it tells those who wait."""
        durable = self.write(run, fact)
        del self._runs[run.id]
        if run.origin is not None:
            self._by_origin.pop(run.origin, None)
        waiting = self._waiting.pop(run.id, None)
        return _NOBODY if waiting is None else self._tell(run, waiting, durable)

    async def _tell(
        self, run: Run, waiting: list[asyncio.Future[Outcome | None]], durable: Awaitable[None]
    ) -> None:
        """Whoever waits is told once it is durable, not before."""
        await durable
        outcome = run.outcome()
        for future in waiting:
            if not future.done():
                future.set_result(outcome)

    async def outcome(self, run_id: str, timeout_s: float) -> Outcome | None:
        """How an open run ends, or None if it is not open or has not ended in time."""
        if run_id not in self._runs or self._letting_go:
            return None
        future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, []).append(future)
        try:
            return await asyncio.wait_for(future, timeout_s)
        except asyncio.TimeoutError:
            return None
        finally:
            self._forget(run_id, future)

    def let_go(self) -> None:
        """Tell whoever waits, and who still comes to wait, that this process sees no more ends."""
        self._letting_go = True
        for waiting in self._waiting.values():
            for future in waiting:
                if not future.done():
                    future.set_result(None)
        self._waiting.clear()

    def _forget(self, run_id: str, future: asyncio.Future[Outcome | None]) -> None:
        """Nobody waits there any more."""
        waiting = self._waiting.get(run_id)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[run_id]
