"""A tree into flows: names are looked up, results are counted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from fractal_rm.domain.expression import Reference
from fractal_rm.domain.findings import Level, did_you_mean
from fractal_rm.domain.flow import Call, Durable, Errors, Flow, Terms
from fractal_rm.flowlang.body import read_body
from fractal_rm.flowlang.duration import duration_ms
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scope import Scope
from fractal_rm.flowlang.terms import read_name, read_terms
from fractal_rm.flowlang.tree import CallNode, FlowNode, ToNode

Endpoints = Mapping[str, Collection[str]]  # component name -> names of its endpoints


def resolve(trees: list[FlowNode], endpoints: Endpoints, report: Report) -> dict[str, Flow]:
    """Make the flows, by id. What does not resolve goes to ``report``."""
    flows: dict[str, Flow] = {}
    for tree in trees:
        number = tree.id.text
        if number in flows:
            report.add("F102", tree.line, tree.id, f"there is a flow {number} already",
                       f"it is in line {flows[number].line}")  # fmt: skip
            continue
        flows[number] = _flow(tree, _steps(tree, endpoints, report))
    return flows


def _flow(tree: FlowNode, steps: tuple[Call, ...]) -> Flow:
    set_to = {keyword: word.text for keyword, word in tree.settings.items()}
    deadline_ms = duration_ms(set_to["DEADLINE"]) if "DEADLINE" in set_to else None
    return Flow(
        tree.id.text,
        tree.title,
        steps,
        tree.line.number,
        Durable(set_to.get("DURABLE", Durable.ACCEPT)),
        UNSET if deadline_ms is None else deadline_ms,
        Errors(set_to["ERRORS"]) if "ERRORS" in set_to else UNSET,
    )


def _steps(tree: FlowNode, endpoints: Endpoints, report: Report) -> tuple[Call, ...]:
    steps: list[Call] = []
    scope = Scope(_names(tree, report), report, doubtful=tree.doubtful)
    target: ToNode | None = None
    for node in tree.instructions:
        if isinstance(node, ToNode):
            target = node
            _check_target(node, endpoints, report)
        elif target is None:
            if tree.doubtful:
                continue
            report.add("F106", node.line, node.keyword,
                       f"this {node.keyword.text} has no target",
                       "put TO <component> <endpoint> before it")  # fmt: skip
        else:
            scope.number = len(steps) + 1
            steps.append(_call(node, target, scope))
    if not tree.instructions and not tree.doubtful:
        report.add("F110", tree.line, tree.id, f"flow {tree.id.text} makes no calls",
                   level=Level.WARNING)  # fmt: skip
    return tuple(_keeping(step, scope.asked.get(step.number)) for step in steps)


def _names(tree: FlowNode, report: Report) -> dict[str, int]:
    """Which call has which name. All of them first, so that one too early is told from a slip."""
    names: dict[str, int] = {}
    number, targeted = 0, False
    for node in tree.instructions:
        if isinstance(node, ToNode):
            targeted = True
            continue
        number += targeted
        if node.modifiers:
            name = read_name(node, names, report)
            if name is not None:
                names[name] = number
    return names


def _call(node: CallNode, target: ToNode, scope: Scope) -> Call:
    items, fields = read_body(node, scope)
    if node.modifiers:
        fields |= read_terms(node, scope)
    return Call(
        number=scope.number,
        component=target.component.text,
        endpoint=target.endpoint.text,
        method=node.method,
        items=items,
        line=node.line.number,
        terms=_terms(fields, items),
    )


def _terms(fields: dict[str, Any], items: tuple[Reference, ...]) -> Terms | msgspec.UnsetType:
    """A call of the seed's language has none, so that it costs and is written as it always was."""
    return Terms(**fields) if fields or any(item.path for item in items) else UNSET


def _keeping(step: Call, asked: set[str] | None) -> Call:
    """A step, told which headers of its answer a later one asks for."""
    if asked is None:
        return step
    terms = Terms() if step.terms is UNSET else step.terms
    terms = msgspec.structs.replace(terms, keeps=tuple(sorted(asked)))
    return msgspec.structs.replace(step, terms=terms)


def _check_target(node: ToNode, endpoints: Endpoints, report: Report) -> None:
    component, endpoint = node.component.text, node.endpoint.text
    known = endpoints.get(component)
    if known is None:
        report.add("F104", node.line, node.component,
                   f'component "{component}" is not in components.conf',
                   did_you_mean(component, endpoints))  # fmt: skip
    elif endpoint not in known:
        report.add("F105", node.line, node.endpoint,
                   f'component "{component}" has no endpoint "{endpoint}"',
                   did_you_mean(endpoint, known))  # fmt: skip
