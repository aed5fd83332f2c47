"""Ask a component whether it has executed a call whose answer was lost."""

from __future__ import annotations

from typing import Protocol

from msgspec import UNSET

from fractal_rm.config.model import Component, Endpoint
from fractal_rm.domain.backoff import backoff_s
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import CallFailed
from fractal_rm.domain.facts import Probed, request_name
from fractal_rm.domain.flow import Call
from fractal_rm.domain.probe import (
    FIRST_PAUSE_S,
    MAX_PAUSE_S,
    MAX_QUESTIONS,
    Answer,
    AskAgain,
    Done,
    NotDone,
    ProbeVerdict,
    Unknown,
    answer_of,
)
from fractal_rm.domain.run import Run
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.execute.pauses import Pauses
from fractal_rm.engine.recorder import Recorder
from fractal_rm.engine.request import CallPart, idempotency_header


class SendQuestion(Protocol):
    """Sends a question in the gate of a component. Raises CallFailed."""

    async def __call__(
        self, run: Run, component: Component, probe: Endpoint, headers: bytes, *, for_undo: bool
    ) -> HttpResponse:
        """Return the response."""
        ...


class Probes:
    """Asks the ``probe`` endpoints of components, and records what they say."""

    def __init__(
        self, dependencies: Dependencies, recorder: Recorder, pauses: Pauses, send: SendQuestion
    ) -> None:
        self._random = dependencies.random
        self._recorder = recorder
        self._pauses = pauses
        self._send = send

    async def ask(
        self, run: Run, call: Call, component: Component, probe: Endpoint, part: CallPart | None
    ) -> Answer:
        """Ask until there is an answer, and record it. Raises RunCancelled, TimeIsUp.

        If there is none after `MAX_QUESTIONS`, the answer is `Unknown`.
        """
        name = UNSET if part is None else part.name
        for_undo = part is not None and part.undo is not None
        headers = idempotency_header(run, request_name(call.number, name))
        questions = 1
        while True:
            try:
                response = await self._send(run, component, probe, headers, for_undo=for_undo)
            except CallFailed as error:
                response = error
            answer = answer_of(response)
            if not isinstance(answer, AskAgain):
                break
            if questions >= MAX_QUESTIONS:
                answer = Unknown(f"no answer to {questions} questions, the last time:"
                                 f" {answer.reason}")  # fmt: skip
                break
            fraction = self._random.fraction()
            pause_s = backoff_s(questions, FIRST_PAUSE_S, MAX_PAUSE_S, fraction)
            await self._pauses.pause(run, pause_s * 1000, for_undo=for_undo)
            questions += 1
        reason = answer.reason if isinstance(answer, Unknown) else ""
        self._recorder.record(
            run, Probed(call.number, _VERDICTS[type(answer)], reason, questions, name)
        )
        return answer


_VERDICTS = {
    Done: ProbeVerdict.DONE,
    NotDone: ProbeVerdict.NOT_DONE,
    Unknown: ProbeVerdict.UNKNOWN,
}
