"""From a trigger to the outcome of its run: accept, journal, queue, place, execute, settle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Union

from msgspec import UNSET

from fractal_rm.config.model import Config
from fractal_rm.domain.admission import Load
from fractal_rm.domain.cancelling import ending_before_reply
from fractal_rm.domain.facts import Dead, Settled
from fractal_rm.domain.handoff.sender import TryAgain
from fractal_rm.domain.outcome import ResumeLater
from fractal_rm.domain.refusals import Refused
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival
from fractal_rm.engine.accept import Acceptance
from fractal_rm.engine.attempts import Attempts
from fractal_rm.engine.condition import Condition
from fractal_rm.engine.definitions import Definitions
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.execute import Executor
from fractal_rm.engine.execute.waits import WaitingCheck
from fractal_rm.engine.hand_off import HandOff
from fractal_rm.engine.new_runs import NewRuns
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.outcomes import Outcomes
from fractal_rm.engine.place import Placer
from fractal_rm.engine.ports import AcceptedTrigger, Recovered
from fractal_rm.engine.queue import RunQueue
from fractal_rm.engine.queue.permits import Permits
from fractal_rm.engine.received_offers import ReceivedOffers
from fractal_rm.engine.recorder import Recorder
from fractal_rm.engine.reply import Replies
from fractal_rm.engine.workers import Workers

RunEnding = Union[Settled, Dead, TryAgain, ResumeLater]


class Lifecycle:
    """What happens to every trigger, from arrival to outcome."""

    def __init__(self, dependencies: Dependencies) -> None:
        self.runs = OpenRuns()
        self.outcomes = Outcomes(self.runs)
        permits = Permits(self.runs, dependencies.config.flows)
        self.queue = RunQueue(Load(), dependencies.limits(), permits, dependencies.timers)
        self.recorder = Recorder(dependencies, self.runs, self.outcomes, self.queue.slots)
        self.condition = Condition()
        definitions = Definitions(lambda: dependencies.config.flows)
        self.offers = ReceivedOffers(dependencies, self.runs, self.condition, definitions)
        self.new_runs = NewRuns(dependencies, self.recorder, self.queue, definitions)
        self.acceptance = Acceptance(
            dependencies,
            self.runs,
            self.recorder,
            self.queue,
            self.condition,
            self.offers,
            definitions,
            self.new_runs,
        )
        self.attempts = Attempts(
            self.recorder, WaitingCheck(self.runs, permits, dependencies.clock)
        )
        self.executor = Executor(dependencies, self.runs, self.recorder, self.new_runs, self.queue)
        self._placer = Placer(dependencies, self.recorder, self.condition)
        self.hand_off = HandOff(dependencies, self.recorder, definitions)
        self._replies = Replies(dependencies, self.recorder)
        self._limits = dependencies.limits
        self._timers = dependencies.timers
        self._counting = dependencies.counting
        self._telemetry = dependencies.telemetry
        self._workers = Workers(dependencies.telemetry)

    # --- from arrival to outcome ------------------------------------------------------------------

    async def accept(self, arrivals: Sequence[Arrival]) -> list[AcceptedTrigger | Refused]:
        """Accept triggers that came together. Accepted triggers are durable when this returns.

        Returns, for each trigger, the answer or the refusal, in the same order. A worker takes each
        queued run; see `_work`.
        """
        triggers = await self.acceptance.decode(arrivals)
        pending = self.acceptance.journal(arrivals, triggers)
        try:
            await self.acceptance.wait_durable(pending)
        finally:  # a durable run is queued, even if its sender no longer waits for the answer
            self.acceptance.enqueue(pending)
        answers = self.acceptance.answers(pending)
        if self._counting.answers is not None:
            self._counting.answers(arrivals, triggers, answers)
        return answers

    async def _work(self) -> None:
        """Run one worker: take the next run from the queue, until no worker is needed."""
        worker = self._workers.begin_work()
        while (run := self.queue.take() or await self.queue.wait()) is not None:
            deferred_s, worker.run = None, run
            try:
                try:
                    ending = await self.run(run)
                except asyncio.CancelledError:
                    if not worker.took_cut():
                        raise
                    ending = await self.run(run)  # ends the run, as it is cancelled
                if isinstance(ending, (TryAgain, ResumeLater)):
                    deferred_s = ending.after_s
                elif (notified := self.settle(run, ending)) is not None:
                    await notified
            except Exception as error:  # noqa: BLE001 - the run stays in the journal
                self._telemetry.problem(
                    "run_internal_error", run=run.id, error=repr(error), exc_info=error
                )
            finally:
                worker.run = None
                self.queue.leave(run, deferred_s)

    async def run(self, run: Run) -> RunEnding:
        """Place a run, hand it off or execute it, undo it if it failed, send its reply.

        Returns how the run ends, or when its next turn is.
        """
        if run.id in self.attempts.interrupted:
            await self.attempts.count(run)
        try:
            ending = None if run.replying is None else ending_before_reply(run)
            while ending is None and (node_id := await self._placer.place(run)) is not None:
                ending = await self.hand_off.hand_off(run, node_id)
                if ending is not None:  # otherwise the node did not take the run
                    self._placer.forget(run)
            if ending is None:
                if run.id in self.attempts.interrupted:  # until now it was to run elsewhere
                    await self.attempts.count(run)
                ending = await self.executor.execute(run)
                if run.cancel is not None:
                    ending = await self.executor.cancel(run, run.cancel)
                elif isinstance(ending, Settled) and ending.state is not State.SUCCEEDED:
                    ending = await self.executor.undo(run, ending)
        except Exception as error:  # noqa: BLE001 - the top of the task
            ending = await self.executor.set_aside_after(run, error)
        reply_topic = run.accepted.reply_topic
        if reply_topic is not UNSET and not isinstance(ending, (TryAgain, ResumeLater)):
            ending = await self._replies.deliver(run, reply_topic, ending)
        return ending

    def settle(self, run: Run, ending: Settled | Dead) -> Awaitable[None] | None:
        """Write how a run ended; see `Recorder.settle`."""
        self.attempts.interrupted.discard(run.id)
        return self.recorder.settle(run, ending)

    def reconfigure(self, config: Config) -> None:
        """Apply a new configuration, also to the runs and calls that wait."""
        self.queue.reconfigure(self._limits(), config.flows)
        components = {name: each.gate for name, each in config.components.items()}
        self.executor.gates.reconfigure(components)
        self.hand_off.gates.reconfigure({name: each.gate for name, each in config.nodes.items()})

    # --- tasks ------------------------------------------------------------------------------------

    def start(self, recovered: Recovered) -> None:
        """Start the tasks that serve the queue. No run begins before the queue is opened.

        If ``recovered`` has runs, others may have begun until now. Then the rates of flows and
        components begin with a wait, so that no rate is exceeded over a restart.
        """
        if recovered.runs or recovered.newest_run_id or recovered.ended_ms is not None:
            now_s = self._timers.now_ms() / 1000
            self.queue.permits.rates.last_used_s = self.executor.gates.last_used_s = now_s
        self._workers.start(self._add_workers())
        self._workers.start(self._end_withdrawn())

    def interrupt(self, run: Run, *, cut: bool) -> None:
        """Let a run notice that it is cancelled.

        A pause between two attempts ends, and so does a WAIT. ``cut``: what the run does now is
        interrupted; otherwise, a call in flight is awaited.
        """
        self.queue.deferred.recall(run.id)
        worker = self._workers.worker_of(run)
        if cut and worker is not None:
            worker.cut()
        else:
            self.executor.end_pauses(run)

    async def stop(self) -> None:
        """Cancel the runs in flight. The journal has the progress of each run."""
        self.queue.cancel_timers()
        await self._workers.cancel()

    def kill(self) -> None:
        """End without waiting for anything, as if the process was killed."""
        self.queue.cancel_timers()
        self._workers.kill()

    async def _add_workers(self) -> None:
        """Start a worker for each run that holds a slot while no worker is idle."""
        while True:
            for _ in range(await self.queue.workers_wanted()):
                self._workers.start(self._work())

    async def _end_withdrawn(self) -> None:
        """Settle each run that left the queue before it began (STALE, LATEST)."""
        while True:
            self.end_later(*await self.queue.next_withdrawn())

    def end_later(self, run: Run, ending: Settled) -> None:
        """Send the reply of a withdrawn run in a task of its own, and settle the run."""
        self._workers.start(self.end(run, ending))

    async def end(self, run: Run, ending: Settled | Dead) -> None:
        """Send the reply of a withdrawn run, if it has one, and settle the run."""
        try:
            while run.accepted.reply_topic is not UNSET:
                reply_outcome = await self._replies.deliver(run, run.accepted.reply_topic, ending)
                if not isinstance(reply_outcome, TryAgain):
                    ending = reply_outcome
                    break
                await self._timers.sleep(reply_outcome.after_s * 1000)
            if (notified := self.settle(run, ending)) is not None:
                await notified
        finally:
            self.queue.drop(run)
