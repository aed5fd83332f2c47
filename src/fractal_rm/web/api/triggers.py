"""Requests into triggers, and outcomes into answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from litestar import Request

from fractal_rm.domain.facts import Finished, Passed
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.refusals import (
    Malformed,
    TooLarge,
    WrongContentCoding,
    WrongContentType,
    WrongShape,
)
from fractal_rm.domain.run import Outcome, Run, change
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, Said, Source
from fractal_rm.engine.ports import History, Intake, Taken

LONGEST_WAIT_S = 300
LONGEST_NUMBER = 15  # digits: it is far below what a journal can hold
ENDED_LOOKS, ENDED_AGAIN_S = 20, 0.05
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})\"?", re.IGNORECASE)


class Answer(msgspec.Struct, omit_defaults=True):
    """The answer to a trigger. ``results`` are response texts, in the order of the calls.

    ``epoch`` stands in the answer to a hand-off: the receipt. ``reply`` is what a REPLY says, or
    the last result; left out where the run has none.
    """

    run: str
    state: State
    epoch: int | None = None
    reason: str = ""
    results: list[msgspec.Raw] | None = None
    reply: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Triggers:
    """Takes triggers for both addresses that have them."""

    def __init__(self, intake: Intake, history: History, max_bytes: Callable[[], int]) -> None:
        self._intake = intake
        self._history = history
        self._max_bytes = max_bytes

    async def take(self, request: Request[Any, Any, Any], flow_id: str | None = None) -> Answer:
        """Take a trigger; with ``Prefer: wait=N`` (RFC 7240) wait for its end. Raises Refused."""
        content_type = check_content_type(request)
        body = await read_body(request, self._max_bytes())
        key = request.headers.get("idempotency-key")
        said = said_in(request, content_type)
        try:
            taken = await self._intake.receive(Arrival(Source.REST, body, key, flow_id, said))
        except Malformed as error:
            raise as_sent(request, error) from None
        wait_s = preferred_wait_s(request.headers.getall("prefer", []))
        if wait_s is None:
            return Answer(taken.run, taken.state, taken.epoch)
        outcome = await self._outcome(taken, wait_s)
        if outcome is None:
            return Answer(taken.run, self._intake.state_of(taken.run) or taken.state, taken.epoch)
        return Answer(
            outcome.run,
            outcome.state,
            taken.epoch,
            outcome.reason,
            list(outcome.results),
            msgspec.UNSET if outcome.reply is None else outcome.reply,
        )

    async def _outcome(self, taken: Taken, wait_s: int) -> Outcome | None:
        outcome = await self._intake.outcome(taken.run, wait_s)
        if outcome is not None or self._intake.state_of(taken.run) is not None:
            return outcome
        # It has ended already: a trigger that came again. Its end is told when it is on the disk.
        for _ in range(ENDED_LOOKS):
            outcome = await asyncio.to_thread(self._ended, taken.run)
            if outcome is not None:
                break
            await asyncio.sleep(ENDED_AGAIN_S)
        return outcome

    def _ended(self, run_id: str) -> Outcome | None:
        detail = self._history.run(run_id)
        if detail is None or detail.unreadable or not detail.summary.state.final:
            return None
        summary, ended = detail.summary, Run(run_id, Flow(""), detail.summary.accepted_ms)
        for timed in detail.facts:
            if isinstance(timed.fact, (Finished, Passed)):
                change(ended, timed.fact)
        ended.state, ended.reason = summary.state, summary.reason
        return ended.outcome()


def said_in(request: Request[Any, Any, Any], content_type: str) -> Said | None:
    """What else the headers say. Raises WrongShape."""
    trace, left = (request.headers.get(name) for name in ("traceparent", "fractal-time-left"))
    is_plain = content_type == "application/json"
    if is_plain and trace is None and left is None:
        return None
    return Said(
        left_ms=None if left is None else _left_ms(left),
        content_type=content_type,
        traceparent=trace,
    )


def _left_ms(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER and int(text) > 0):
        raise WrongShape("Fractal-Time-Left must be a positive whole number, in milliseconds")
    return int(text)


def check_content_type(request: Request[Any, Any, Any]) -> str:
    """Of what type the body is. Raises WrongContentType unless that is JSON."""
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and "+json" in kind):
        raise WrongContentType(f"it is {given[:60]!r}" if given else "there is none")
    return kind


def as_sent(request: Request[Any, Any, Any], error: Malformed) -> Malformed | WrongContentCoding:
    """What is wrong with a body that is no JSON: its content codings, where it says any."""
    codings = ", ".join(request.headers.getall("content-encoding", []))
    if {each.strip().lower() for each in codings.split(",")} <= {"identity", ""}:
        return error
    return WrongContentCoding(f"it is {codings[:60]!r}, and no JSON as it came: {error}")


async def read_body(request: Request[Any, Any, Any], max_bytes: int) -> bytes:
    """Read at most ``max_bytes``. Raises TooLarge, before reading where the length is known."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise TooLarge(f"{length} bytes, and at most {max_bytes} are taken")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"more than {max_bytes} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def preferred_wait_s(prefer: Sequence[str]) -> int | None:
    """The seconds of ``wait`` (RFC 7240, 4.3), or None."""
    for line in prefer:
        found = _WAIT.search(line)
        if found:
            return min(int(found[1]), LONGEST_WAIT_S)
    return None
