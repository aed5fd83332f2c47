"""Turns the parsed lines into flows: resolves names, and gives each result its number."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from fractal_rm.domain.findings import Level
from fractal_rm.domain.flow import Call, CallOptions, Flow, Step
from fractal_rm.flowlang.instructions import INSTRUCTIONS, read_step
from fractal_rm.flowlang.modifiers import has_foreach, read_name
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scope import Endpoints, KnownNames, Scope
from fractal_rm.flowlang.settings import read_settings
from fractal_rm.flowlang.tree import FlowNode, StepNode, ToNode


def resolve(trees: list[FlowNode], endpoints: Endpoints, report: Report) -> dict[str, Flow]:
    """The flows by their ids. Names that cannot be resolved are reported."""
    flows: dict[str, Flow] = {}
    known_names = KnownNames(endpoints, dict.fromkeys(tree.id.text for tree in trees))
    for tree in trees:
        number = tree.id.text
        if number in flows:
            report.add(
                "F102",
                tree.line,
                tree.id,
                f"there is a flow {number} already",
                f"the other flow is in line {flows[number].line}: give this flow another number",
            )
            continue
        settings = read_settings(tree.settings, report) if tree.settings else {}
        steps = _steps(tree, known_names, report)
        flows[number] = Flow(number, tree.title, steps, tree.line.number, **settings)
    return flows


def _steps(tree: FlowNode, known_names: KnownNames, report: Report) -> tuple[Step, ...]:
    steps: list[Step] = []
    scope = Scope(_names(tree, report), known_names, report, incomplete=tree.incomplete)
    last_number = 0
    for node in tree.instructions:
        if isinstance(node, ToNode):
            scope.step.target = node
            _check_target(node, known_names.endpoints, report)
            continue
        instruction = INSTRUCTIONS[node.keyword.text]
        if instruction.needs_target and scope.step.target is None:
            if not tree.incomplete:
                report.add("F106", node.line, node.keyword,
                           f"this {node.keyword.text} has no target",
                           "write TO <component> <endpoint> before it")  # fmt: skip
            continue
        scope.step.number, scope.step.is_numbered = last_number + 1, instruction.is_numbered
        steps.append(read_step(node, scope))
        if instruction.is_numbered:
            last_number += 1
            _note_without_status(node, last_number, scope)
    if not tree.instructions and not tree.incomplete:
        report.add("F110", tree.line, tree.id, f"flow {tree.id.text} has no calls",
                   level=Level.WARNING)  # fmt: skip
    if scope.kept_headers:
        steps = [_with_kept_headers(step, scope.kept_headers) for step in steps]
    return tuple(steps)


def _note_without_status(node: StepNode, number: int, scope: Scope) -> None:
    if node.keyword.text == "RUN":
        scope.calls_without_status[number] = "it is a RUN"
    elif node.modifiers and has_foreach(node):
        scope.calls_without_status[number] = "it has FOREACH"


def _names(tree: FlowNode, report: Report) -> dict[str, int]:
    """The number of each named call.

    All names are read before other lines, so that the finding about a name that is used too early
    differs from the finding about an unknown name.
    """
    names: dict[str, int] = {}
    number, has_target = 0, False
    for node in tree.instructions:
        if isinstance(node, ToNode):
            has_target = True
            continue
        instruction = INSTRUCTIONS[node.keyword.text]
        if not instruction.is_numbered:
            continue
        if has_target or not instruction.needs_target:
            number += 1
        if node.modifiers:
            name = read_name(node, names, report)
            if name is not None:
                names[name] = number
    return names


def _with_kept_headers(step: Step, kept_headers: dict[int, set[str]]) -> Step:
    """The step with the names of the headers that its EXPECT or a later step uses."""
    if not isinstance(step, Call) or step.number not in kept_headers:
        return step
    options = CallOptions() if step.options is UNSET else step.options
    options = msgspec.structs.replace(
        options, kept_headers=tuple(sorted(kept_headers[step.number]))
    )
    return msgspec.structs.replace(step, options=options)


def _check_target(node: ToNode, endpoints: Endpoints, report: Report) -> None:
    component, endpoint = node.component.text, node.endpoint.text
    endpoint_names = endpoints.get(component)
    if endpoint_names is None:
        report.add("F104", node.line, node.component,
                   f'component "{component}" is not in components.conf',
                   report.did_you_mean(component, endpoints))  # fmt: skip
    elif endpoint not in endpoint_names:
        report.add("F105", node.line, node.endpoint,
                   f'component "{component}" has no endpoint "{endpoint}"',
                   report.did_you_mean(endpoint, endpoint_names))  # fmt: skip
