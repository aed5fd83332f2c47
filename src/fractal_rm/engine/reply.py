"""Publish how a run ended to the response topic that its sender named (MQTT 5).

    ended ──Replying──> end is durable ──publish──> broker has the reply ──Settled──> settled
                             ▲              │
                             └─── later ────┘ no broker, or no acknowledgement

After a crash before `Settled`, the reply is published again: it is delivered at least once.
"""

from __future__ import annotations

from typing import Union

import msgspec

from fractal_rm.domain.backoff import backoff_s
from fractal_rm.domain.call_errors import PublishFailed
from fractal_rm.domain.facts import Dead, Replying, Settled, none_if_unset
from fractal_rm.domain.handoff.sender import TryAgain
from fractal_rm.domain.result import display_json
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.recorder import Recorder

FIRST_RETRY_S, MAX_RETRY_S = 0.5, 30.0
MAX_TRIES = 125  # these tries take about an hour

Ending = Union[Settled, Dead]


class ReplyMessage(msgspec.Struct, omit_defaults=True):
    """A reply, published as JSON. The key ``reply`` is omitted if the run has no reply."""

    run: str
    state: State
    reply: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    reason: str = ""


_encoder = msgspec.json.Encoder()


class Replies:
    """Publishes replies. Counts the failed tries of each reply that is not published yet."""

    def __init__(self, dependencies: Dependencies, recorder: Recorder) -> None:
        self._dependencies = dependencies
        self._recorder = recorder
        self._tries: dict[str, int] = {}

    async def deliver(self, run: Run, topic: str, ending: Ending) -> Ending | TryAgain:
        """Publish the reply of a run that ends with ``ending``.

        Returns the ending to settle the run with, or TryAgain. The ending is durable before it is
        published, so that a crash cannot change it.
        """
        if run.replying is None:
            state = ending.state if isinstance(ending, Settled) else State.DEAD
            await self._recorder.record_durably(run, Replying(state, ending.reason, ending.cause))
        correlation = none_if_unset(run.accepted.correlation)
        try:
            publisher = self._dependencies.publisher
            await publisher.publish(topic, reply_message(run), correlation=correlation)
        except PublishFailed as error:
            return self._after_failure(run, ending, error)
        except Exception as error:  # noqa: BLE001 - the run has ended, even if its reply fails
            self._dependencies.telemetry.problem("reply_failed", run=run.id, exc_info=error)
            return self._after_failure(run, ending, PublishFailed(repr(error), final=True))
        self._tries.pop(run.id, None)
        return ending

    def _after_failure(self, run: Run, ending: Ending, error: PublishFailed) -> Ending | TryAgain:
        tries = self._tries.pop(run.id, 0) + 1
        if error.final or tries >= MAX_TRIES:
            note = f"the reply could not be published: {error}"
            self._dependencies.telemetry.problem("reply_lost", run=run.id, reason=str(error))
            reason = f"{ending.reason}; {note}" if ending.reason else note
            return msgspec.structs.replace(ending, reason=reason)
        self._tries[run.id] = tries
        fraction = self._dependencies.random.fraction()
        return TryAgain(backoff_s(tries, FIRST_RETRY_S, MAX_RETRY_S, fraction))


def reply_message(run: Run) -> bytes:
    """The JSON text of the reply message."""
    replying = run.replying
    state, reason = (
        (run.state, run.reason) if replying is None else (replying.state, replying.reason)
    )
    reply = run.progress.reply if state is State.SUCCEEDED else run.progress.flow_reply
    reply_json = msgspec.UNSET if reply is None else display_json(reply)
    return _encoder.encode(ReplyMessage(run.id, state, reply_json, reason))
