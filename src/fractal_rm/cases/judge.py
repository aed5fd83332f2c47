"""Compares the run of a case with the expectations of the case, and lists the differences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET

from fractal_rm.cases.mocked_replies import ComponentCall, selects
from fractal_rm.cases.model import (
    Body,
    Case,
    Expected,
    ExpectedCall,
    ExpectedMessage,
    base64_text,
    body_from_bytes,
)
from fractal_rm.cases.play import PlayedRun, PublishedMessage, TriggerRefused
from fractal_rm.domain.json_equal import json_equal
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json
from fractal_rm.flowlang.duration import duration_text

RUN = "<run>"  # stands for the id of the run in an expected header


class Difference(msgspec.Struct, frozen=True):
    """One difference from an expectation, which is in line ``line``; 0 if it has no line."""

    what: str
    expected: str
    got: str
    line: int = 0


def differences(case: Case, played: PlayedRun | TriggerRefused) -> list[Difference]:
    """All differences, in this order: calls, messages, the end of the run, results."""
    if isinstance(played, TriggerRefused):
        return [
            Difference("trigger", "a run", f"refused [{played.code}]: {played.reason}", case.line)
        ]
    expected = case.expected
    return [
        *_unanswered(played),
        *_calls(expected.calls, played, case.flow),
        *_messages(expected.published, played.published),
        *_end(expected, played),
        *_results(expected, played),
    ]


def _unanswered(played: PlayedRun) -> Iterator[Difference]:
    """A difference for each request for which the case has no reply."""
    for request in dict.fromkeys(map(describe_request, played.unanswered)):
        yield Difference(request, "a reply in the case", "no reply fits: add a [[case.reply]]")


# --- calls ------------------------------------------------------------------------------------


def _calls(
    expected: tuple[ExpectedCall, ...] | None, played: PlayedRun, flow: str
) -> Iterator[Difference]:
    if expected is None:
        return
    for number, (call, component_call) in enumerate(
        zip(expected, played.calls, strict=False), start=1
    ):
        yield from _call(f"request {number}", call, component_call, played.run, flow)
    for number, call in enumerate(expected[len(played.calls) :], start=len(played.calls) + 1):
        yield Difference(
            f"request {number}", _describe_expected(call), "no such request", call.line
        )
    for number, component_call in enumerate(played.calls[len(expected) :], start=len(expected) + 1):
        yield Difference(f"request {number}", "no more requests", describe_request(component_call))


def _call(
    what: str, call: ExpectedCall, component_call: ComponentCall, run: str, flow: str
) -> Iterator[Difference]:
    request = component_call.request
    if not selects(call.selector, component_call, flow) or call.method not in (
        None,
        request.method,
    ):
        yield Difference(
            what, _describe_expected(call), describe_request(component_call), call.line
        )
        return
    body = request.body or b""
    if not body_matches(call.body, body):
        expected, got = _in_same_format(call.body, body)
        yield Difference(f"{what}, body", expected, got or "no body", call.line)
    for name, value in call.headers:
        got = request.headers.get(name.lower())
        if got != value.replace(RUN, run):
            yield Difference(f"{what}, {name}", value, _text_or_absent(got, "header"), call.line)
    for name, value in call.query:
        got = request.query.get(name)
        if got != value:
            yield Difference(
                f"{what}, ?{name}", value, _text_or_absent(got, "parameter"), call.line
            )


def _describe_expected(call: ExpectedCall) -> str:
    selector = call.selector
    to = " ".join(part for part in (selector.component, selector.endpoint) if part)
    words = [call.method or ("a request" if not to else "request"), *(["to", to] if to else [])]
    return " ".join(words) + _describe_step(
        selector.call or 0, selector.flow, undo=selector.undo or False
    )


def describe_request(component_call: ComponentCall) -> str:
    """Describe a request in one line."""
    request = component_call.request
    return f"{request.method} to {component_call.to}" + _describe_step(
        request.number, component_call.flow, undo=request.undo
    )


def _describe_step(number: int, flow: str | None, *, undo: bool) -> str:
    if not number:
        return " (an undo)" if undo else ""
    of = f" of flow {flow}" if flow else ""
    return f" ({'undo of ' if undo else ''}call {number}{of})"


# --- messages ---------------------------------------------------------------------------------


def _messages(
    expected: tuple[ExpectedMessage, ...] | None, played: tuple[PublishedMessage, ...]
) -> Iterator[Difference]:
    if expected is None:
        return
    for number, (message, got) in enumerate(zip(expected, played, strict=False), start=1):
        what, body = f"message {number}", got.body
        if message.topic != got.topic:
            yield Difference(f"{what}, topic", message.topic, got.topic, message.line)
        if not body_matches(message.body, body):
            yield Difference(f"{what}, body", *_in_same_format(message.body, body), message.line)
    for number, message in enumerate(expected[len(played) :], start=len(played) + 1):
        yield Difference(f"message {number}", message.topic, "no such message", message.line)
    for number, got in enumerate(played[len(expected) :], start=len(expected) + 1):
        yield Difference(f"message {number}", "no more messages", got.topic)


# --- the end ----------------------------------------------------------------------------------


def _end(expected: Expected, played: PlayedRun) -> Iterator[Difference]:
    if expected.state is not played.state:
        yield Difference("state", expected.state.value, _describe_state(played))
    if expected.reason is not None and expected.reason not in played.reason:
        yield Difference("reason", f"… {expected.reason} …", played.reason or "no reason")
    if expected.node is not None and expected.node != played.node:
        yield Difference("node", expected.node, played.node or "this node")
    if expected.took_ms is not None and expected.took_ms != played.took_ms:
        got = "the run has not ended" if played.took_ms is None else duration_text(played.took_ms)
        yield Difference("took", duration_text(expected.took_ms), got)


def _describe_state(played: PlayedRun) -> str:
    ended = "" if played.state.final else ", the run did not end in the watched time"
    return f"{played.state.value}{ended}" + (f": {played.reason}" if played.reason else "")


def _results(expected: Expected, played: PlayedRun) -> Iterator[Difference]:
    for number, value in expected.results:
        if number in played.results:
            yield from _value(f"result{number}", value, played.results[number])
        else:
            yield Difference(f"result{number}", _value_text(value), "no such result")
    for number in expected.skipped:
        if bytes(played.results.get(number, b"")) != b"null":
            yield Difference(f"call {number}", "skipped", "the call was made or not reached")
    if expected.reply is not UNSET:
        yield from _value("reply", expected.reply, played.reply)


def _value(what: str, expected: Any, raw: msgspec.Raw) -> Iterator[Difference]:
    """Compare an actual value. A text is compared as text, any other value as JSON."""
    got = msgspec.json.decode(raw)
    if json_equal(got, expected):
        return
    wanted = Body(text=expected) if isinstance(expected, str) else Body(json=expected)
    body = got.encode() if isinstance(got, str) else bytes(raw)
    if not body_matches(wanted, body):
        yield Difference(what, *_in_same_format(wanted, body))


def body_matches(wanted: Body, body: bytes) -> bool:
    """Whether a body equals the expected body. Only JSON is compared by value."""
    if wanted.is_any:
        return True
    if wanted.json is UNSET:
        return body == wanted.as_bytes()
    try:
        return json_equal(read_json(body), wanted.json)
    except Malformed:
        return False


def _in_same_format(wanted: Body, body: bytes) -> tuple[str, str]:
    """The expected and the actual body in the same format: JSON, text or base64.

    JSON is written without spaces and with sorted keys, so that only values differ.
    """
    if wanted.json is not UNSET:
        try:
            return _json(wanted.json), _json(read_json(body))
        except Malformed:
            pass
    expected, got = body_from_bytes(wanted.as_bytes()).text, body_from_bytes(body).text
    if wanted.data is not UNSET or expected is UNSET or got is UNSET:
        return f"base64 {base64_text(wanted.as_bytes())}", f"base64 {base64_text(body)}"
    return expected, got


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _value_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _text_or_absent(value: str | None, kind: str) -> str:
    return f"no such {kind}" if value is None else value
