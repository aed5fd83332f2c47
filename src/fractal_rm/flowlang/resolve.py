"""A tree into flows: names are looked up, results are counted."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from fractal_rm.domain.findings import Level, did_you_mean
from fractal_rm.domain.flow import Call, Durable, Flow, Item, Payload, Result
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.tree import CallNode, FlowNode, ToNode

Endpoints = Mapping[str, Collection[str]]  # component name -> names of its endpoints

_RESULT = re.compile(r"result([1-9][0-9]{0,5})")


def resolve(trees: list[FlowNode], endpoints: Endpoints, report: Report) -> dict[str, Flow]:
    """Make the flows, by id. What does not resolve goes to ``report``."""
    flows: dict[str, Flow] = {}
    for tree in trees:
        number = tree.id.text
        if number in flows:
            report.add("F102", tree.line, tree.id, f"there is a flow {number} already",
                       f"it is in line {flows[number].line}")  # fmt: skip
            continue
        durable = tree.settings.get("DURABLE")
        flows[number] = Flow(
            number,
            tree.title,
            _steps(tree, endpoints, report),
            tree.line.number,
            Durable(durable.text) if durable else Durable.ACCEPT,
        )
    return flows


def _steps(tree: FlowNode, endpoints: Endpoints, report: Report) -> tuple[Call, ...]:
    steps: list[Call] = []
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
            steps.append(_call(node, target, len(steps) + 1, tree, report))
    if not tree.instructions and not tree.doubtful:
        report.add("F110", tree.line, tree.id, f"flow {tree.id.text} makes no calls",
                   level=Level.WARNING)  # fmt: skip
    return tuple(steps)


def _call(node: CallNode, target: ToNode, number: int, tree: FlowNode, report: Report) -> Call:
    items = (_item(word, number, node.line, tree, report) for word in node.items)
    return Call(
        number=number,
        component=target.component.text,
        endpoint=target.endpoint.text,
        method=node.method,
        items=tuple(item for item in items if item is not None),
        line=node.line.number,
    )


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


def _item(word: Word, number: int, line: Line, tree: FlowNode, report: Report) -> Item | None:
    if word.text == "payload":
        return Payload()
    found = _RESULT.fullmatch(word.text)
    if found is None:
        known = ["payload", *(f"result{n}" for n in range(1, number))]
        report.add("F107", line, word, f'"{word.text}" is neither payload nor a result',
                   did_you_mean(word.text, known))  # fmt: skip
        return None
    result = int(found[1])
    if result >= number and not tree.doubtful:
        before = f"only {number - 1} came before" if number > 1 else "none came before"
        report.add("F108", line, word,
                   f"{word.text} is not there yet: this is call {number}, {before}")  # fmt: skip
    return Result(result)
