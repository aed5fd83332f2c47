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

RUN = "<run>"  # in an expected header: the id of the run


class Difference(msgspec.Struct, frozen=True):
    """One difference between the run and an expectation.

    ``line`` is the line of the expectation in the file of cases; 0 if unknown.
    """

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
    """Yield a difference for each request to which the case has no reply."""
    for request in dict.fromkeys(map(describe_request, played.unanswered)):
        yield Difference(request, "a reply in the case", "no reply fits: add a [[case.reply]]")


# --- calls ------------------------------------------------------------------------------------


def _calls(
    expected_calls: tuple[ExpectedCall, ...] | None, played: PlayedRun, flow: str
) -> Iterator[Difference]:
    if expected_calls is None:
        return
    pairs = zip(expected_calls, played.calls, strict=False)
    for number, (expected, sent) in enumerate(pairs, start=1):
        yield from _call(f"request {number}", expected, sent, played.run, flow)
    missing = expected_calls[len(played.calls) :]
    for number, expected in enumerate(missing, start=len(played.calls) + 1):
        yield Difference(
            f"request {number}", _describe_expected(expected), "no such request", expected.line
        )
    surplus = played.calls[len(expected_calls) :]
    for number, sent in enumerate(surplus, start=len(expected_calls) + 1):
        yield Difference(f"request {number}", "no more requests", describe_request(sent))


def _call(
    subject: str, expected: ExpectedCall, sent: ComponentCall, run: str, flow: str
) -> Iterator[Difference]:
    request = sent.request
    is_selected = selects(expected.selector, sent, flow)
    if not is_selected or expected.method not in (None, request.method):
        yield Difference(
            subject, _describe_expected(expected), describe_request(sent), expected.line
        )
        return
    body = request.body or b""
    if not body_matches(expected.body, body):
        expected_text, text = _in_same_format(expected.body, body)
        yield Difference(f"{subject}, body", expected_text, text or "no body", expected.line)
    for name, value in expected.headers:
        header = request.headers.get(name.lower())
        if header != value.replace(RUN, run):
            text = _text_or_absent(header, "header")
            yield Difference(f"{subject}, {name}", value, text, expected.line)
    for name, value in expected.query:
        parameter = request.query.get(name)
        if parameter != value:
            text = _text_or_absent(parameter, "parameter")
            yield Difference(f"{subject}, ?{name}", value, text, expected.line)


def _describe_expected(expected: ExpectedCall) -> str:
    selector = expected.selector
    target = " ".join(part for part in (selector.component, selector.endpoint) if part)
    if target:
        text = f"{expected.method or 'request'} to {target}"
    else:
        text = expected.method or "a request"
    return text + _describe_step(selector.call or 0, selector.flow, undo=selector.undo or False)


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
    expected_messages: tuple[ExpectedMessage, ...] | None, published: tuple[PublishedMessage, ...]
) -> Iterator[Difference]:
    if expected_messages is None:
        return
    pairs = zip(expected_messages, published, strict=False)
    for number, (expected, message) in enumerate(pairs, start=1):
        if expected.topic != message.topic:
            yield Difference(
                f"message {number}, topic", expected.topic, message.topic, expected.line
            )
        if not body_matches(expected.body, message.body):
            texts = _in_same_format(expected.body, message.body)
            yield Difference(f"message {number}, body", *texts, expected.line)
    missing = expected_messages[len(published) :]
    for number, expected in enumerate(missing, start=len(published) + 1):
        yield Difference(f"message {number}", expected.topic, "no such message", expected.line)
    surplus = published[len(expected_messages) :]
    for number, message in enumerate(surplus, start=len(expected_messages) + 1):
        yield Difference(f"message {number}", "no more messages", message.topic)


# --- the end ----------------------------------------------------------------------------------


def _end(expected: Expected, played: PlayedRun) -> Iterator[Difference]:
    if expected.state is not played.state:
        yield Difference("state", expected.state.value, _describe_state(played))
    if expected.reason is not None and expected.reason not in played.reason:
        yield Difference("reason", f"… {expected.reason} …", played.reason or "no reason")
    if expected.node is not None and expected.node != played.node:
        yield Difference("node", expected.node, played.node or "this node")
    if expected.took_ms is not None and expected.took_ms != played.took_ms:
        text = "the run has not ended" if played.took_ms is None else duration_text(played.took_ms)
        yield Difference("took", duration_text(expected.took_ms), text)


def _describe_state(played: PlayedRun) -> str:
    suffix = "" if played.state.final else ", the run did not end in the watched time"
    return f"{played.state.value}{suffix}" + (f": {played.reason}" if played.reason else "")


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


def _value(subject: str, expected: Any, raw: msgspec.Raw) -> Iterator[Difference]:
    """Compare the JSON value ``raw`` with ``expected``."""
    value = msgspec.json.decode(raw)
    if json_equal(value, expected):
        return
    expected_body = Body(text=expected) if isinstance(expected, str) else Body(json=expected)
    body = value.encode() if isinstance(value, str) else bytes(raw)
    if not body_matches(expected_body, body):
        yield Difference(subject, *_in_same_format(expected_body, body))


def body_matches(expected: Body, body: bytes) -> bool:
    """Whether a body matches the expected body: the same bytes, or the same JSON value."""
    if expected.is_any:
        return True
    if expected.json is UNSET:
        return body == expected.as_bytes()
    try:
        return json_equal(read_json(body), expected.json)
    except Malformed:
        return False


def _in_same_format(expected: Body, body: bytes) -> tuple[str, str]:
    """The expected and the actual body in the same format: JSON, text or base64.

    JSON is written without spaces and with sorted keys, so that only values differ.
    """
    if expected.json is not UNSET:
        try:
            return _json(expected.json), _json(read_json(body))
        except Malformed:
            pass
    expected_text = body_from_bytes(expected.as_bytes()).text
    text = body_from_bytes(body).text
    if expected.data is not UNSET or expected_text is UNSET or text is UNSET:
        return f"base64 {base64_text(expected.as_bytes())}", f"base64 {base64_text(body)}"
    return expected_text, text


def _json(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _value_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _text_or_absent(value: str | None, kind: str) -> str:
    return f"no such {kind}" if value is None else value
