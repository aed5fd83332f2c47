"""The steps that have no result: WAIT, PUBLISH, REPLY."""

from __future__ import annotations

from typing import Union

from msgspec import UNSET

from fractal_rm.domain.body import message_body, reply_of
from fractal_rm.domain.cause import Cause, Failure
from fractal_rm.domain.condition import holds
from fractal_rm.domain.errors import CallFailed, CannotEvaluate, PublishFailed
from fractal_rm.domain.facts import Passed, Settled, Waiting
from fractal_rm.domain.flow import Errors, Publish, Respond, Retry, Wait
from fractal_rm.domain.moment import left_ms
from fractal_rm.domain.outcome import Later, call_again_s
from fractal_rm.domain.result import stored
from fractal_rm.domain.run import Run
from fractal_rm.domain.seen import Seen
from fractal_rm.domain.state import State
from fractal_rm.engine.execute.tries import Tries, failure_in, last_failure
from fractal_rm.engine.recorder import Recorder
from fractal_rm.engine.request import seen_by
from fractal_rm.engine.world import World

HOLD_MS = 3_000  # who waits longer gives its slot to others meanwhile
# A broker that is started again, or a node that has just been, needs some seconds to be connected.
PUBLISH_RETRY = Retry(7, 100)

Unnumbered = Union[Wait, Publish, Respond]


class UnnumberedSteps:
    """Each is passed once; that it is, is written with what it said."""

    def __init__(self, world: World, recorder: Recorder) -> None:
        self._world = world
        self._recorder = recorder
        self._tries = Tries(world, recorder)

    async def take(self, run: Run, position: int, step: Unnumbered) -> Settled | Later | None:
        """Do what a step says. None: it is done; otherwise how the run ends or goes on."""
        try:
            if step.when is not None and not holds(step.when, self._seen(run)):
                self._recorder.record(run, Passed(position))
                return None
            if isinstance(step, Wait):
                return await self._wait(run, position, step)
            if isinstance(step, Publish):
                return await self._publish(run, position, step)
            self._reply(run, position, step)
        except CannotEvaluate as fault:
            return self._fail(run, position, step, Failure.of(fault))
        return None

    def _seen(self, run: Run) -> Seen:
        return seen_by(run, self._world.config.bounds)

    async def _wait(self, run: Run, position: int, step: Wait) -> Later | None:
        """The end is durable before the wait begins, so that a restart does not move it."""
        waiting = run.waiting
        if waiting is None or waiting.position != position:
            waiting = Waiting(position, self._world.clock.moment().after(step.ms))
            await self._recorder.record_durably(run, waiting)
        left = left_ms(waiting.until, self._world.clock.moment(), step.ms)
        if left > HOLD_MS:
            return Later(left / 1000)
        await self._world.alarms.sleep(left)
        self._recorder.record(run, Passed(position))
        return None

    async def _publish(self, run: Run, position: int, step: Publish) -> Settled | None:
        """At least once: a crash between the broker's answer and our fact sends it again."""
        body = message_body(step.content, self._seen(run))
        name = f"@{position}"
        last = last_failure(run, name)
        while last is None or last.final is UNSET:
            attempt = 1
            if last is not None:
                attempt = last.attempt + 1
                await self._tries.pause(last)
            try:
                await self._world.publisher.publish(step.topic, body)
            except PublishFailed as error:
                again_s = self._again_s(error, attempt)
                why = Failure(Cause.PUBLISH_FAILED, str(error))
                last = self._tries.failed(run, 0, attempt, why, again_s, name)
            else:
                durable = self._recorder.record_durably(run, Passed(position))
                if run.flow.durable.each_step:
                    await durable
                return None
        return self._fail(run, position, step, failure_in(last))

    def _again_s(self, error: PublishFailed, attempt: int) -> float | None:
        """As a call that was never sent: a message that comes twice is what QoS 1 allows."""
        if error.final:
            return None
        unsent = CallFailed(str(error), sent=False)
        return call_again_s(unsent, attempt, self._world.random.fraction(), retry=PUBLISH_RETRY)

    def _reply(self, run: Run, position: int, step: Respond) -> None:
        reply = reply_of(step.content, self._seen(run))
        self._recorder.record(run, Passed(position, *stored(reply)))

    def _fail(self, run: Run, position: int, step: Unnumbered, why: Failure) -> Settled | None:
        if run.flow.errors is Errors.CONTINUE:
            self._recorder.record(run, Passed(position))
            return None
        return Settled(State.FAILED, f"{words_of(step)}: {why.reason}", why.cause)


def words_of(step: Unnumbered) -> str:
    """A step as a reason names it."""
    if isinstance(step, Publish):
        return f"PUBLISH {step.topic}"
    return "WAIT" if isinstance(step, Wait) else "REPLY"
