"""Asks nodes to describe themselves, for operators."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus

import msgspec

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.config.model import Node
from fractal_rm.domain.call import HttpCaller, HttpResponse
from fractal_rm.domain.call_errors import CallFailed, CallTimedOut
from fractal_rm.domain.clock_offset import clock_offset
from fractal_rm.domain.handoff.messages import code_in, read_description
from fractal_rm.domain.node_check import Answer, Answered, Described, NotReached
from fractal_rm.domain.outcome import response_details
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as


class _Problem(msgspec.Struct):
    """The part of problem details (RFC 9457) that is for people."""

    detail: str = ""


async def ask_nodes(caller: HttpCaller, nodes: Iterable[Node], limit_s: float) -> dict[str, Answer]:
    """Ask all nodes at the same time, and return their answers by id, after at most ``limit_s``."""
    nodes = list(nodes)
    answers = await asyncio.gather(*(_ask(caller, node, limit_s) for node in nodes))
    return {node.id: answer for node, answer in zip(nodes, answers, strict=True)}


async def _ask(caller: HttpCaller, node: Node, limit_s: float) -> Answer:
    """Ask a node, and ask it again on the open connection, for a more exact clock offset."""
    ends_s = SystemClock.monotonic_s() + limit_s
    answer = await _ask_once(caller, node, limit_s)
    if isinstance(answer, Answered) and answer.status == HTTPStatus.FORBIDDEN:
        accepts = await _accepts_post(caller, node, ends_s - SystemClock.monotonic_s())
        return msgspec.structs.replace(answer, accepts_post=accepts)
    if not isinstance(answer, Described):
        return answer
    again = await _ask_once(caller, node, ends_s - SystemClock.monotonic_s())
    if isinstance(again, Described) and again.clock.uncertain_ms < answer.clock.uncertain_ms:
        return again
    return answer


async def _accepts_post(caller: HttpCaller, node: Node, limit_s: float) -> bool:
    """Whether a node of this program reads a POST. It is empty, so no program executes anything.

    Releases that do not describe themselves refuse the question of a trusted peer, but not its
    hand-offs.
    """
    try:
        reply = await asyncio.wait_for(caller.call(node.offer, b"", timeout_s=limit_s), limit_s)
    except (asyncio.TimeoutError, CallFailed):
        return False
    return reply.status == HTTPStatus.BAD_REQUEST and code_in(reply.body) == Malformed.code


async def _ask_once(caller: HttpCaller, node: Node, limit_s: float) -> Answer:
    asked_ms, asked_s = SystemClock.now_ms(), SystemClock.monotonic_s()
    try:
        reply = await asyncio.wait_for(caller.call(node.describe, timeout_s=limit_s), limit_s)
    except asyncio.TimeoutError:
        return NotReached(f"no answer within {limit_s:.1f} s", timed_out=True)
    except CallTimedOut as error:
        return NotReached(str(error), timed_out=True)
    except CallFailed as error:
        return NotReached(str(error).removeprefix(f"{node.describe.origin}: "))
    round_trip_ms = (SystemClock.monotonic_s() - asked_s) * 1000
    description = read_description(reply.body) if reply.status == 200 else None
    if description is None:
        return _answered(reply)
    return Described(description, clock_offset(description.time_ms, asked_ms, round_trip_ms))


def _answered(reply: HttpResponse) -> Answered:
    return Answered(reply.status, reply.header("content-type"), _details(reply))


def _details(reply: HttpResponse) -> str:
    """What an answer says, for people: the detail of a problem, or the start of the body."""
    with suppress(Malformed, msgspec.ValidationError):
        problem = read_json_as(reply.body, _Problem)
        if problem.detail:
            return f"the answer is {reply.status}: {problem.detail:.200}"
    return f"the answer is {reply.status}{response_details(reply)}"
