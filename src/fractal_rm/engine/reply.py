"""Reply: an MQTT 5 sender that named a response topic is told there how its run ended.

    ended ──Replying──> written down ──publish──> the broker has it ──Settled──> settled
                             ▲            │
                             └── later ───┘ no broker, or no answer

A crash anywhere on the way leaves a run that knows how it ended, and is told again: at least once.
"""

from __future__ import annotations

from typing import Union

import msgspec

from fractal_rm.domain.backoff import backoff_s
from fractal_rm.domain.call_errors import PublishFailed
from fractal_rm.domain.facts import Dead, Replying, Settled
from fractal_rm.domain.handoff import TryAgain
from fractal_rm.domain.result import display_json
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.recorder import Recorder

AGAIN_FIRST_S, AGAIN_AT_MOST_S = 0.5, 30.0
MOST_TRIES = 125  # about an hour

Ending = Union[Settled, Dead]


class Answer(msgspec.Struct, omit_defaults=True):
    """What is published, as JSON. ``reply`` is left out where the run has none."""

    run: str
    state: State
    reply: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    reason: str = ""


_encoder = msgspec.json.Encoder()


class Replies:
    """Counts the tries of each run whose reply no broker has taken yet."""

    def __init__(self, world: Dependencies, recorder: Recorder) -> None:
        self._world = world
        self._recorder = recorder
        self._tries: dict[str, int] = {}

    async def deliver(self, run: Run, topic: str, ending: Ending) -> Ending | TryAgain:
        """Publish the reply of a run that has ended so; comes to its ending, or another turn.

        It is written first: what was told stays true.
        """
        if run.replying is None:
            state = ending.state if isinstance(ending, Settled) else State.DEAD
            await self._recorder.record_durably(run, Replying(state, ending.reason, ending.cause))
        try:
            await self._world.publisher.publish(topic, answer(run), correlation=run.correlation)
        except PublishFailed as error:
            return self._after(run, ending, error)
        except Exception as error:  # noqa: BLE001 - the run has ended, whatever becomes of its reply
            self._world.telemetry.problem("reply_broke", run=run.id, exc_info=error)
            return self._after(run, ending, PublishFailed(repr(error), final=True))
        self._tries.pop(run.id, None)
        return ending

    def _after(self, run: Run, ending: Ending, error: PublishFailed) -> Ending | TryAgain:
        tries = self._tries.pop(run.id, 0) + 1
        if error.final or tries >= MOST_TRIES:
            why = f"its reply could not be published: {error}"
            self._world.telemetry.problem("reply_lost", run=run.id, reason=str(error))
            reason = f"{ending.reason}; {why}" if ending.reason else why
            return msgspec.structs.replace(ending, reason=reason)
        self._tries[run.id] = tries
        fraction = self._world.random.fraction()
        return TryAgain(backoff_s(tries, AGAIN_FIRST_S, AGAIN_AT_MOST_S, fraction))


def answer(run: Run) -> bytes:
    """The body of the message."""
    replying = run.replying
    state, reason = (
        (run.state, run.reason) if replying is None else (replying.state, replying.reason)
    )
    reply = run.reply if state is State.SUCCEEDED else run.flow_reply
    shown = msgspec.UNSET if reply is None else display_json(reply)
    return _encoder.encode(Answer(run.id, state, shown, reason))
