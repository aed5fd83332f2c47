"""Writes a case as TOML text, which `cases.read` can read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET

from fractal_rm.cases.model import (
    BalancerMock,
    Body,
    Case,
    Expected,
    ExpectedCall,
    Fault,
    PeerMock,
    ReplyMock,
    Selector,
    base64_text,
)
from fractal_rm.domain.state import State
from fractal_rm.flowlang.duration import duration_text

Fields = dict[str, str]  # key -> value as TOML
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_NOT_LITERAL = re.compile(r"['\x00-\x08\x0a-\x1f\x7f]")


def case_text(case: Case) -> str:
    """Return the case as TOML. Fields that have their default value are left out."""
    return "\n".join(_lines(case))


def _lines(case: Case) -> Iterator[str]:
    yield from _table("[[case]]", _head(case))
    for mock in case.replies:
        yield from _table("\n[[case.reply]]", _mock(mock))
    if case.balancer != BalancerMock():
        yield from _table("\n[case.balancer]", _balancer(case.balancer))
    for peer in case.peers:
        yield from _table("\n[[case.peer]]", _peer(peer))
    yield from _table("\n[case.expect]", _expected(case.expected))
    for call in case.expected.calls or ():
        yield from _table("\n[[case.expect.call]]", _call(call))
    for message in case.expected.published or ():
        fields = {"topic": _string(message.topic)} | _body(message.body)
        yield from _table("\n[[case.expect.publish]]", fields)
    yield ""


def _table(header: str, fields: Fields) -> Iterator[str]:
    yield header
    for key, value in fields.items():
        yield f"{_key(key)} = {value}"


def _head(case: Case) -> Fields:
    fields = {"name": _string(case.name), "flow": _identifier(case.flow)}
    payload = msgspec.json.decode(case.payload)
    if isinstance(payload, str):
        fields["payload"] = _string(payload)
    elif payload is not None:
        fields["payload_json"] = _string(case.payload.decode())
    if case.key is not None:
        fields["key"] = _string(case.key)
    if case.placed:
        fields["placed"] = "true"
    if case.deadline_ms is not None:
        fields["deadline"] = _duration(case.deadline_ms)
    if case.broker_down:
        fields["broker"] = _string("down")
    return fields


def _mock(mock: ReplyMock) -> Fields:
    fields = _selector(mock.selector)
    if mock.fault is not None:
        fields["fault"] = _string(mock.fault.value)
    else:
        if mock.status != 200:
            fields["status"] = str(mock.status)
        fields |= _body(mock.body)
    if mock.headers:
        fields["headers"] = _pairs(mock.headers)
    return fields | _delay(mock.delay_ms)


def _balancer(mock: BalancerMock) -> Fields:
    fields = {} if mock.node is None else {"node": _identifier(mock.node)}
    return fields | _status_or_fault(mock.status, 200, mock.fault) | _delay(mock.delay_ms)


def _peer(mock: PeerMock) -> Fields:
    fields = {} if mock.node is None else {"node": _identifier(mock.node)}
    fields |= _status_or_fault(mock.status, 202, mock.fault)
    if not mock.receipt:
        fields["receipt"] = "false"
    return fields | _delay(mock.delay_ms)


def _status_or_fault(status: int, default: int, fault: Fault | None) -> Fields:
    if fault is not None:
        return {"fault": _string(fault.value)}
    return {} if status == default else {"status": str(status)}


def _expected(expected: Expected) -> Fields:
    fields: Fields = {}
    if expected.state is not State.SUCCEEDED:
        fields["state"] = _string(expected.state.value)
    if expected.reason is not None:
        fields["reason"] = _string(expected.reason)
    if expected.node is not None:
        fields["node"] = _identifier(expected.node)
    if expected.reply is not UNSET:
        fields["reply"] = _value(expected.reply)
    if expected.skipped:
        fields["skipped"] = "[" + ", ".join(map(str, expected.skipped)) + "]"
    if expected.took_ms is not None:
        fields["took"] = _duration(expected.took_ms)
    for key, values in (("call", expected.calls), ("publish", expected.published)):
        if values == ():
            fields[key] = "[]"
    return fields


def _call(call: ExpectedCall) -> Fields:
    fields = _selector(call.selector)
    if call.method is not None:
        fields["method"] = _string(call.method)
    fields |= _body(call.body)
    for key, pairs in (("headers", call.headers), ("query", call.query)):
        if pairs:
            fields[key] = _pairs(pairs)
    return fields


def _selector(selector: Selector) -> Fields:
    fields: Fields = {}
    if selector.flow is not None:
        fields["flow"] = _identifier(selector.flow)
    if selector.call is not None:
        fields["call"] = str(selector.call)
    if selector.element is not None:
        fields["element"] = str(selector.element)
    if selector.undo is not None:
        fields["undo"] = "true" if selector.undo else "false"
    if selector.component is not None:
        fields["to"] = _string(
            " ".join(part for part in (selector.component, selector.endpoint) if part)
        )
    return fields


def _body(body: Body) -> Fields:
    if body.data is not UNSET:
        return {"base64": _string(base64_text(body.data))}
    if body.text is not UNSET:
        return {"text": _string(body.text)}
    return {} if body.json is UNSET else {"json": _value(body.json)}


def _delay(ms: int) -> Fields:
    return {"delay": _duration(ms)} if ms else {}


def _duration(ms: int) -> str:
    return _string(duration_text(ms))


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return "{ " + ", ".join(f"{_key(name)} = {_string(value)}" for name, value in pairs) + " }"


def _value(value: Any) -> str:
    """Write a JSON value without null as TOML."""
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items())  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"  # pyright: ignore[reportUnknownArgumentType]
    return msgspec.json.encode(value).decode()


def _identifier(text: str) -> str:
    return text if re.fullmatch(r"0|[1-9][0-9]{0,15}", text) else _string(text)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _basic(name)


def _string(text: str) -> str:
    """Write a text as a TOML string, in single quotes if that avoids backslashes."""
    if ('"' in text or "\\" in text) and not _NOT_LITERAL.search(text):
        return f"'{text}'"
    return _basic(text)


def _basic(text: str) -> str:
    """Write a text as a TOML string in double quotes: a JSON string with DEL escaped, too."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")
