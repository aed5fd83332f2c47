"""A tree into flows: names are looked up, results are counted."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from fractal_rm.domain.findings import Level
from fractal_rm.domain.flow import Call, Flow, Step, Terms
from fractal_rm.flowlang.instructions import INSTRUCTIONS, read_step
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scope import Around, Endpoints, Scope
from fractal_rm.flowlang.settings import read_settings
from fractal_rm.flowlang.terms import is_for_each, read_name
from fractal_rm.flowlang.tree import FlowNode, StepNode, ToNode


def resolve(trees: list[FlowNode], endpoints: Endpoints, report: Report) -> dict[str, Flow]:
    """Make the flows, by id. What does not resolve goes to ``report``."""
    flows: dict[str, Flow] = {}
    around = Around(endpoints, dict.fromkeys(tree.id.text for tree in trees))
    for tree in trees:
        number = tree.id.text
        if number in flows:
            report.add("F102", tree.line, tree.id, f"there is a flow {number} already",
                       f"it is in line {flows[number].line}")  # fmt: skip
            continue
        settings = read_settings(tree.settings, report) if tree.settings else {}
        steps = _steps(tree, around, report)
        flows[number] = Flow(number, tree.title, steps, tree.line.number, **settings)
    return flows


def _steps(tree: FlowNode, around: Around, report: Report) -> tuple[Step, ...]:
    steps: list[Step] = []
    scope = Scope(_names(tree, report), around, report, doubtful=tree.doubtful)
    counted = 0
    for node in tree.instructions:
        if isinstance(node, ToNode):
            scope.target = node
            _check_target(node, around.endpoints, report)
            continue
        instruction = INSTRUCTIONS[node.keyword.text]
        if instruction.calls and scope.target is None:
            if not tree.doubtful:
                report.add("F106", node.line, node.keyword,
                           f"this {node.keyword.text} has no target",
                           "put TO <component> <endpoint> before it")  # fmt: skip
            continue
        scope.number, scope.counts = counted + 1, instruction.counts
        steps.append(read_step(node, scope))
        if instruction.counts:
            counted += 1
            _note_headless(node, counted, scope)
    if not tree.instructions and not tree.doubtful:
        report.add("F110", tree.line, tree.id, f"flow {tree.id.text} makes no calls",
                   level=Level.WARNING)  # fmt: skip
    return tuple(_keeping(step, scope.asked) for step in steps) if scope.asked else tuple(steps)


def _note_headless(node: StepNode, number: int, scope: Scope) -> None:
    if node.keyword.text == "RUN":
        scope.headless[number] = "it is a RUN"
    elif node.modifiers and is_for_each(node):
        scope.headless[number] = "it is made for each element"


def _names(tree: FlowNode, report: Report) -> dict[str, int]:
    """Which call has which name. All of them first, so that one too early is told from a slip."""
    names: dict[str, int] = {}
    number, targeted = 0, False
    for node in tree.instructions:
        if isinstance(node, ToNode):
            targeted = True
            continue
        instruction = INSTRUCTIONS[node.keyword.text]
        if not instruction.counts:
            continue
        number += targeted or not instruction.calls
        if node.modifiers:
            name = read_name(node, names, report)
            if name is not None:
                names[name] = number
    return names


def _keeping(step: Step, asked: dict[int, set[str]]) -> Step:
    """A step, told which headers of its answer its EXPECT or a later step asks for."""
    if not isinstance(step, Call) or step.number not in asked:
        return step
    terms = Terms() if step.terms is UNSET else step.terms
    terms = msgspec.structs.replace(terms, keeps=tuple(sorted(asked[step.number])))
    return msgspec.structs.replace(step, terms=terms)


def _check_target(node: ToNode, endpoints: Endpoints, report: Report) -> None:
    component, endpoint = node.component.text, node.endpoint.text
    known = endpoints.get(component)
    if known is None:
        report.add("F104", node.line, node.component,
                   f'component "{component}" is not in components.conf',
                   report.did_you_mean(component, endpoints))  # fmt: skip
    elif endpoint not in known:
        report.add("F105", node.line, node.endpoint,
                   f'component "{component}" has no endpoint "{endpoint}"',
                   report.did_you_mean(endpoint, known))  # fmt: skip
