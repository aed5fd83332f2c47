"""Reads the cases in flows.cases.toml. If the file has errors, reports all of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import UNSET

from fractal_rm.cases.model import (
    DEFAULT_START_MS,
    DEFAULT_WATCH_MS,
    BalancerMock,
    Body,
    Case,
    Expected,
    ExpectedCall,
    ExpectedMessage,
    Fault,
    PeerMock,
    ReplyMock,
    Selector,
)
from fractal_rm.cases.table import Table, TomlFile
from fractal_rm.config.model import Config
from fractal_rm.domain.call import header_line
from fractal_rm.domain.findings import ConfigRejected, did_you_mean
from fractal_rm.domain.flow import Call, Flow, Method, SubFlow
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.state import State
from fractal_rm.domain.strict_json import check_json

FILE = "flows.cases.toml"
_FAULTS = [fault.value for fault in Fault]
_STATES = [state.value for state in State if state is not State.NEW]
_BROKER = ("up", "down")


def read_cases(text: str, config: Config, file: str = FILE) -> list[Case]:
    """Read cases for the flows of ``config``. Raises ConfigRejected with all findings."""
    reader = _CasesReader(TomlFile(file, text), config)
    cases = reader.cases()
    if reader.source.findings:
        findings = sorted(reader.source.findings, key=lambda f: (f.place.line, f.place.column))
        raise ConfigRejected(findings)
    return cases


class _CasesReader:
    def __init__(self, source: TomlFile, config: Config) -> None:
        self.source = source
        self._config = config
        self._names: dict[str, int] = {}

    def cases(self) -> list[Case]:
        root = self.source.root()
        cases = root.tables("case", self._case) or ()
        root.finish()
        return list(cases)

    def _case(self, table: Table) -> Case:
        name = self._name(table)
        flow = self._flow(table, table.identifier("flow", None), required=True)
        case = Case(
            name=name,
            flow=flow.id if flow else "",
            payload=_payload(table),
            key=table.text("key"),
            placed=table.flag("placed", default=False),
            deadline_ms=table.duration_ms("deadline"),
            start_ms=_value_or(table.moment_ms("at"), DEFAULT_START_MS),
            watched_ms=table.duration_ms("watch") or DEFAULT_WATCH_MS,
            broker_down=table.one_of("broker", _BROKER, "up") == "down",
            replies=table.tables("reply", lambda each: self._mock(each, flow)) or (),
            balancer=self._balancer(table.table("balancer")),
            peers=table.tables("peer", self._peer) or (),
            expected=self._expected(table.table("expect"), flow),
            line=table.line,
        )
        table.finish()
        return case

    def _name(self, table: Table) -> str:
        name = table.text("name")
        if name is None:
            table.missing("name")
        elif name in self._names:
            table.bad("name", f'the case at line {self._names[name]} also has the name "{name}"',
                      code="T303")  # fmt: skip
        elif name:
            self._names[name] = table.line
        else:
            table.bad("name", "name must not be empty")
        return name or ""

    def _flow(self, table: Table, flow_id: str | None, *, required: bool = False) -> Flow | None:
        if flow_id is None:
            if required:
                table.missing("flow")
            return None
        flow = self._config.flows.get(flow_id)
        if flow is None:
            hint = did_you_mean(flow_id, self._config.flows)
            table.bad("flow", f"flows.conf has no flow {flow_id}", hint, "T302")
        return flow

    # --- replies ------------------------------------------------------------------------------

    def _mock(self, table: Table, flow: Flow | None) -> ReplyMock:
        mock = ReplyMock(
            selector=self._selector(table, flow),
            status=table.integer("status", default=200, at_least=200, at_most=599),
            body=_body(table),
            headers=_headers(table),
            delay_ms=table.duration_ms("delay") or 0,
            fault=_fault(table),
        )
        table.finish()
        return mock

    def _selector(self, table: Table, flow: Flow | None) -> Selector:
        sub_flow = table.identifier("flow", None)
        if sub_flow is not None:
            flow = self._flow(table, sub_flow)
        component, endpoint = self._target(table)
        call = table.integer("call", default=0, at_least=1, at_most=10_000) or None
        if call is not None and flow is not None:
            _check_call_number(table, "call", call, flow)
        element = table.integer("element", default=0, at_least=1, at_most=10_000) or None
        return Selector(
            component=component,
            endpoint=endpoint,
            call=call,
            flow=sub_flow,
            element=element,
            undo=table.flag("undo", None),
        )

    def _target(self, table: Table) -> tuple[str | None, str | None]:
        """Read ``to``: the name of a component, and optionally one of its endpoints."""
        to = table.text("to")
        if to is None:
            return None, None
        name, *endpoints = to.split() or [""]
        component = self._config.components.get(name)
        if component is None:
            hint = did_you_mean(name, self._config.components)
            table.bad("to", f'component "{name}" is not in components.conf', hint, "T302")
        elif len(endpoints) > 1:
            hint = f'write "{name} {endpoints[0]}"'
            table.bad("to", "to must be a component and at most one endpoint", hint)
        elif endpoints and endpoints[0] not in component.endpoints:
            hint = did_you_mean(endpoints[0], component.endpoints)
            table.bad("to", f'component "{name}" has no endpoint "{endpoints[0]}"', hint, "T302")
        endpoint = endpoints[0] if endpoints else None
        return name, endpoint

    def _node(self, table: Table) -> str | None:
        node = table.identifier("node", None)
        if node is not None and node not in self._config.nodes and node != self._config.node_id:
            hint = did_you_mean(node, self._config.nodes)
            table.bad("node", f"nodes.conf has no node {node}", hint, "T302")
        return node

    def _balancer(self, table: Table | None) -> BalancerMock:
        if table is None:
            return BalancerMock()
        mock = BalancerMock(
            node=table.identifier("node", None),  # the node need not be in nodes.conf
            status=table.integer("status", default=200, at_least=200, at_most=599),
            delay_ms=table.duration_ms("delay") or 0,
            fault=_fault(table),
        )
        table.finish()
        return mock

    def _peer(self, table: Table) -> PeerMock:
        mock = PeerMock(
            node=self._node(table),
            status=table.integer("status", default=202, at_least=200, at_most=599),
            receipt=table.flag("receipt", default=True),
            delay_ms=table.duration_ms("delay") or 0,
            fault=_fault(table),
        )
        table.finish()
        return mock

    # --- expectations -------------------------------------------------------------------------

    def _expected(self, table: Table | None, flow: Flow | None) -> Expected:
        if table is None:
            return Expected()
        expected = Expected(
            state=State(table.one_of("state", _STATES, State.SUCCEEDED.value)),
            reason=table.text("reason"),
            node=self._node(table),
            reply=table.json("reply", UNSET),
            results=_results(table.table("results"), flow),
            skipped=_skipped(table, flow),
            calls=table.tables("call", lambda each: self._call(each, flow)),
            published=table.tables("publish", _message),
            took_ms=table.duration_ms("took"),
        )
        table.finish()
        return expected

    def _call(self, table: Table, flow: Flow | None) -> ExpectedCall:
        call = ExpectedCall(
            selector=self._selector(table, flow),
            method=table.one_of("method", [method.value for method in Method], None),
            body=_body(table),
            headers=_pairs(table, "headers"),
            query=_pairs(table, "query"),
            line=table.line,
        )
        table.finish()
        return call


def _message(table: Table) -> ExpectedMessage:
    message = ExpectedMessage(table.required_text("topic"), _body(table), table.line)
    table.finish()
    return message


def _body(table: Table) -> Body:
    """Read a body from ``text``, ``json`` or ``base64``. More than one of them is an error."""
    text, json, data = table.text("text"), table.json("json", UNSET), table.base64("base64")
    keys = [key for key in ("text", "json", "base64") if table.has(key)]
    if len(keys) > 1:
        table.bad(keys[-1], f"use {keys[0]} or {keys[-1]}, not both")
    return Body(
        text=UNSET if text is None else text,
        json=json,
        data=UNSET if data is None else data,
    )


def _fault(table: Table) -> Fault | None:
    fault = table.one_of("fault", _FAULTS, None)
    return None if fault is None else Fault(fault)


def _payload(table: Table) -> bytes:
    """Return the JSON text of ``payload`` or ``payload_json``; ``null`` if both are absent.

    ``payload_json`` can contain null, which TOML cannot express.
    """
    text = table.text("payload_json")
    if text is None:
        return msgspec.json.encode(table.json("payload"))
    if table.has("payload"):
        table.bad("payload_json", "use payload or payload_json, not both")
    try:
        check_json(text.encode())
    except Malformed as error:
        table.bad("payload_json", f"this is not JSON: {error}")
    return text.encode()


def _pairs(table: Table, key: str) -> tuple[tuple[str, str], ...]:
    """Read a table of texts. A number is read as text."""
    inner = table.table(key)
    if inner is None:
        return ()
    return tuple((name, inner.identifier(name, "")) for name in inner.keys())  # noqa: SIM118


def _headers(table: Table) -> tuple[tuple[str, str], ...]:
    """Read the headers of a reply (RFC 9110, 5)."""
    pairs = _pairs(table, "headers")
    try:
        b"".join(header_line(name, value) for name, value in pairs)
    except ValueError as error:
        table.bad("headers", f"this cannot be a header: {error}")
    return pairs


def _results(table: Table | None, flow: Flow | None) -> tuple[tuple[int, Any], ...]:
    """Read the expected results. A key is the number or the name of a call."""
    if table is None or flow is None:
        return ()
    numbers = _result_numbers(flow)
    results: list[tuple[int, Any]] = []
    for name in table.keys():  # noqa: SIM118 - not a dict
        if name in numbers:
            results.append((numbers[name], table.json(name)))
        else:
            hint = did_you_mean(name, list(numbers))
            table.bad(name, f'flow {flow.id} has no result "{name}"', hint, "T302")
    return tuple(results)


def _skipped(table: Table, flow: Flow | None) -> tuple[int, ...]:
    """Return the numbers of the calls that ``skipped`` lists by number or name."""
    numbers = _result_numbers(flow) if flow else {}
    skipped: list[int] = []
    for name in map(str, table.items("skipped") or ()):
        if name in numbers:
            skipped.append(numbers[name])
        elif flow:
            hint = did_you_mean(name, list(numbers))
            table.bad("skipped", f'flow {flow.id} has no call "{name}"', hint, "T302")
    return tuple(skipped)


def _check_call_number(table: Table, key: str, number: int, flow: Flow) -> None:
    numbers = set(_result_numbers(flow).values())
    if number not in numbers:
        numbers_text = f"1 to {len(numbers)}" if len(numbers) > 1 else "1"
        table.bad(
            key, f"flow {flow.id} has no call {number}", f"its calls are {numbers_text}", "T302"
        )


def _result_numbers(flow: Flow) -> dict[str, int]:
    """The number of each step that has a result, by its name and by the number as text."""
    numbers: dict[str, int] = {}
    for step in flow.steps:
        if isinstance(step, (Call, SubFlow)):
            numbers[str(step.number)] = step.number
            name = _result_name(step)
            if name:
                numbers[name] = step.number
    return numbers


def _result_name(step: Call | SubFlow) -> str:
    if isinstance(step, SubFlow):
        return step.name
    return "" if step.options is UNSET else step.options.name


def _value_or(value: int | None, default: int) -> int:
    return default if value is None else value


def unknown_name_error(parts: Collection[str], cases: Collection[Case]) -> str | None:
    """Check that each of ``parts`` is a part of the name of a case.

    Return an error text for the first one that is not. Return None if there is no error.
    """
    names = [case.name for case in cases]
    for part in parts:
        if not any(part.lower() in name.lower() for name in names):
            hint = did_you_mean(part, names)
            return f'no case has "{part}" in its name' + (f"; {hint}" if hint else "")
    return None
