"""What differs between what a case expects and what came of it. Plain functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET

from fractal_rm.cases.answers import Called, fits
from fractal_rm.cases.model import (
    Case,
    Expected,
    ExpectedCall,
    ExpectedMessage,
    Said,
    base64_text,
    said_in,
)
from fractal_rm.cases.play import Message, Observed, TriggerRefused
from fractal_rm.domain.json_equal import json_equal
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json
from fractal_rm.flowlang.duration import duration

RUN = "<run>"  # in an expected header it stands for the id of the run


class Difference(msgspec.Struct, frozen=True):
    """One thing that is not as expected. ``line`` is where the case says so, or 0."""

    what: str
    expected: str
    got: str
    line: int = 0


def differences(case: Case, came: Observed | TriggerRefused) -> list[Difference]:
    """Everything that differs, in the order of a run: calls, messages, the end."""
    if isinstance(came, TriggerRefused):
        return [Difference("trigger", "a run", f"refused [{came.code}]: {came.reason}", case.line)]
    expected = case.expected
    return [
        *_unanswered(came),
        *_calls(expected.calls, came, case.flow),
        *_messages(expected.published, came.published),
        *_end(expected, came),
        *_results(expected, came),
    ]


def _unanswered(came: Observed) -> Iterator[Difference]:
    """A call that nobody answers says more about the case than about the flow."""
    for words in dict.fromkeys(map(words_of, came.unanswered)):
        yield Difference(words, "a reply in the case", "none fits it: add a [[case.reply]]")


# --- calls ------------------------------------------------------------------------------------


def _calls(
    expected: tuple[ExpectedCall, ...] | None, came: Observed, flow: str
) -> Iterator[Difference]:
    if expected is None:
        return
    for number, (call, called) in enumerate(zip(expected, came.calls, strict=False), start=1):
        yield from _call(f"request {number}", call, called, came.run, flow)
    for number, call in enumerate(expected[len(came.calls) :], start=len(came.calls) + 1):
        yield Difference(f"request {number}", _expected_words(call), "no such request", call.line)
    for number, called in enumerate(came.calls[len(expected) :], start=len(expected) + 1):
        yield Difference(f"request {number}", "no more requests", words_of(called))


def _call(
    what: str, call: ExpectedCall, called: Called, run: str, flow: str
) -> Iterator[Difference]:
    request = called.request
    if not fits(call.on, called, flow) or call.method not in (None, request.method):
        yield Difference(what, _expected_words(call), words_of(called), call.line)
        return
    body = request.body or b""
    if not says(call.body, body):
        expected, got = _in_one_form(call.body, body)
        yield Difference(f"{what}, body", expected, got or "no body", call.line)
    for name, value in call.headers:
        got = request.headers.get(name.lower())
        if got != value.replace(RUN, run):
            yield Difference(f"{what}, {name}", value, _or_none(got, "header"), call.line)
    for name, value in call.query:
        got = request.query.get(name)
        if got != value:
            yield Difference(f"{what}, ?{name}", value, _or_none(got, "parameter"), call.line)


def _expected_words(call: ExpectedCall) -> str:
    on = call.on
    to = " ".join(part for part in (on.component, on.endpoint) if part)
    words = [call.method or ("a request" if not to else "request"), *(["to", to] if to else [])]
    return " ".join(words) + _step_words(on.call or 0, on.flow, undo=on.undo or False)


def words_of(called: Called) -> str:
    """A request in one line."""
    request = called.request
    return f"{request.method} to {called.to}" + _step_words(
        request.number, called.flow, undo=request.undo
    )


def _step_words(number: int, flow: str | None, *, undo: bool) -> str:
    if not number:
        return " (an undo)" if undo else ""
    of = f" of flow {flow}" if flow else ""
    return f" ({'undo of ' if undo else ''}call {number}{of})"


# --- messages ---------------------------------------------------------------------------------


def _messages(
    expected: tuple[ExpectedMessage, ...] | None, came: tuple[Message, ...]
) -> Iterator[Difference]:
    if expected is None:
        return
    for number, (message, got) in enumerate(zip(expected, came, strict=False), start=1):
        what, body = f"message {number}", got.body
        if message.topic != got.topic:
            yield Difference(f"{what}, topic", message.topic, got.topic, message.line)
        if not says(message.body, body):
            yield Difference(f"{what}, body", *_in_one_form(message.body, body), message.line)
    for number, message in enumerate(expected[len(came) :], start=len(came) + 1):
        yield Difference(f"message {number}", message.topic, "no such message", message.line)
    for number, got in enumerate(came[len(expected) :], start=len(expected) + 1):
        yield Difference(f"message {number}", "no more messages", got.topic)


# --- the end ----------------------------------------------------------------------------------


def _end(expected: Expected, came: Observed) -> Iterator[Difference]:
    if expected.state is not came.state:
        yield Difference("state", expected.state.value, _state_words(came))
    if expected.reason is not None and expected.reason not in came.reason:
        yield Difference("reason", f"… {expected.reason} …", came.reason or "no reason")
    if expected.node is not None and expected.node != came.node:
        yield Difference("node", expected.node, came.node or "here")
    if expected.took_ms is not None and expected.took_ms != came.took_ms:
        got = "it has not ended" if came.took_ms is None else duration(came.took_ms)
        yield Difference("took", duration(expected.took_ms), got)


def _state_words(came: Observed) -> str:
    ended = "" if came.state.final else ", as it has not ended while it was watched"
    return f"{came.state.value}{ended}" + (f": {came.reason}" if came.reason else "")


def _results(expected: Expected, came: Observed) -> Iterator[Difference]:
    for number, value in expected.results:
        if number in came.results:
            yield from _value(f"result{number}", value, came.results[number])
        else:
            yield Difference(f"result{number}", _value_words(value), "it has none")
    for number in expected.skipped:
        if bytes(came.results.get(number, b"")) != b"null":
            yield Difference(f"call {number}", "skipped", "made, or never come to")
    if expected.reply is not UNSET:
        yield from _value("reply", expected.reply, came.reply)


def _value(what: str, expected: Any, came: msgspec.Raw) -> Iterator[Difference]:
    """A text is compared with the text that came, anything else with what that says as JSON."""
    got = msgspec.json.decode(came)
    if json_equal(got, expected):
        return
    said = Said(text=expected) if isinstance(expected, str) else Said(json=expected)
    body = got.encode() if isinstance(got, str) else bytes(came)
    if not says(said, body):
        yield Difference(what, *_in_one_form(said, body))


def says(said: Said, body: bytes) -> bool:
    """Whether a body says what is expected: letter for letter, or as JSON."""
    if said.anything:
        return True
    if said.json is UNSET:
        return body == said.as_bytes()
    try:
        return json_equal(read_json(body), said.json)
    except Malformed:
        return False


def _in_one_form(said: Said, body: bytes) -> tuple[str, str]:
    """What is expected and what came. Both are JSON alike where JSON is expected, or base64.

    So they part where they differ, and not at a space or the order of the keys.
    """
    if said.json is not UNSET:
        try:
            return _json(said.json), _json(read_json(body))
        except Malformed:
            pass
    expected, got = said_in(said.as_bytes()).text, said_in(body).text
    if said.data is not UNSET or expected is UNSET or got is UNSET:
        return f"base64 {base64_text(said.as_bytes())}", f"base64 {base64_text(body)}"
    return expected, got


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _value_words(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _or_none(value: str | None, kind: str) -> str:
    return f"no such {kind}" if value is None else value
