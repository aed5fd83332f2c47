"""Checks whole flows, and flows that run each other.

Flows that run each other without end are an error. Warnings are given for a flow that starts itself
again, a deadline that is shorter than its flow, and an UNDO without effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from msgspec import UNSET

from fractal_rm.domain.flow import (
    Call,
    Flow,
    Keep,
    KeepSettings,
    OnError,
    Order,
    Publish,
    Reply,
    Step,
    SubFlow,
    Wait,
)
from fractal_rm.domain.needs import needs
from fractal_rm.domain.topic import matches
from fractal_rm.flowlang.constant import constant_result
from fractal_rm.flowlang.duration import duration_text
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line
from fractal_rm.flowlang.tree import FlowNode, StepNode
from fractal_rm.flowlang.words import words_of

MAX_SHOWN_FLOWS = 5  # flows of a cycle that a finding shows
MAX_COMPARED_PAIRS = 100_000  # pairs of a topic and a filter: a flow may have thousands of both


def check_flows(trees: list[FlowNode], flows: Mapping[str, Flow], report: Report) -> None:
    """Report what is wrong with the flows as a whole."""
    by_id: dict[str, FlowNode] = {}
    for tree in trees:
        by_id.setdefault(tree.id.text, tree)
    least_ms_by_flow: dict[str, int] = {}  # flow id -> the shortest time of a run
    for flow in _flows_inner_first(by_id, flows, report):
        least_ms = _least_ms(flow, least_ms_by_flow)
        if flow.deadline_ms is not UNSET:
            if flow.deadline_ms <= least_ms:
                _warn_of_short_deadline(by_id[flow.id], least_ms, report)
            least_ms = min(least_ms, flow.deadline_ms)
        least_ms_by_flow[flow.id] = least_ms
        if flow.errors is OnError.CONTINUE:
            _warn_of_useless_undo(by_id[flow.id], report)
    _check_self_starts(by_id, flows, report)
    _warn_of_flows_that_keep_more(by_id, flows, report)


def _flows_inner_first(
    trees: Mapping[str, FlowNode], flows: Mapping[str, Flow], report: Report
) -> Iterator[Flow]:
    """Yield all flows, each after the flows that it always runs. Cycles of flows are reported."""
    done: set[str] = set()
    for flow in flows.values():
        if flow.id in done:
            continue
        path = {flow.id: _unconditional_runs(flow)}  # flow id -> its unvisited RUNs
        while path:
            outer, runs = next(reversed(path.items()))
            step = next((each for each in runs if each.flow in flows), None)
            if step is None:
                path.popitem()
                done.add(outer)
                yield flows[outer]
            elif step.flow in path:
                if not report.is_full:
                    cycle = [*_path_from(step.flow, path), f"flow {step.flow}"]
                    _report_cycle(cycle, step, trees[outer], report)
            elif step.flow not in done:
                path[step.flow] = _unconditional_runs(flows[step.flow])


def _unconditional_runs(flow: Flow) -> Iterator[SubFlow]:
    return (step for step in flow.steps if isinstance(step, SubFlow) and constant_result(step.when))


def _path_from(first: str, path: dict[str, Iterator[SubFlow]]) -> list[str]:
    """The flows of a path from ``first`` to the end, such as ``flow 7``.

    If the path is long: the first flow, ``…``, and the last five flows.
    """
    flows: list[str] = []
    for flow in reversed(path):
        flows.append(f"flow {flow}")
        if flow == first:
            break
        if len(flows) == MAX_SHOWN_FLOWS:
            flows += "…", f"flow {first}"
            break
    return flows[::-1]


def _report_cycle(cycle: list[str], step: SubFlow, tree: FlowNode, report: Report) -> None:
    line = _line(tree, step.line)
    report.add("F129", line, line.words[1],
               f"this cycle of flows never ends: {' runs '.join(cycle)}",
               "add a WHEN to one of these RUNs")  # fmt: skip


def _line(tree: FlowNode, number: int) -> Line:
    return next(node.line for node in tree.instructions if node.line.number == number)


def _warn_of_short_deadline(tree: FlowNode, least_ms: int, report: Report) -> None:
    line = next(each for each in tree.settings if each.words[0].text == "DEADLINE")
    least = duration_text(least_ms)
    report.warn("F135", line, line.words[1],
                f"flow {tree.id.text} takes at least {least}, so every run expires",
                f"make DEADLINE longer than {least}")  # fmt: skip


def _check_self_starts(
    trees: Mapping[str, FlowNode], flows: Mapping[str, Flow], report: Report
) -> None:
    """Warn of each flow that always publishes a message that starts the flow again."""
    self_starts: dict[str, tuple[Publish, str]] = {}  # by flow id: PUBLISH, filter
    for flow_id, step, topic_filter in islice(_topics_and_filters(flows), MAX_COMPARED_PAIRS):
        if flow_id not in self_starts and matches(topic_filter, step.topic):
            self_starts[flow_id] = step, topic_filter
    for flow_id, (step, topic_filter) in self_starts.items():
        line = _line(trees[flow_id], step.line)
        report.warn("F137", line, words_of(line)[1],
                    f"flow {flow_id} publishes a message that starts flow {flow_id} again, without"
                    f" end: the flow has ON {topic_filter}",
                    "add a WHEN to this PUBLISH, or use another topic")  # fmt: skip


def _topics_and_filters(flows: Mapping[str, Flow]) -> Iterator[tuple[str, Publish, str]]:
    """Every topic that a flow always publishes to, with every filter that starts the flow."""
    for flow in flows.values():
        if flow.starts is UNSET or not flow.starts.topics:
            continue
        for step in flow.steps:
            if isinstance(step, Publish) and step.topic and constant_result(step.when):
                yield from ((flow.id, step, each) for each in flow.starts.topics)


def _warn_of_useless_undo(tree: FlowNode, report: Report) -> None:
    steps = (node for node in tree.instructions if isinstance(node, StepNode))
    for undo in (each for step in steps for each in step.modifiers):
        if undo.keyword.text == "UNDO":
            report.warn("F134", undo.line, undo.keyword, "UNDO has no effect with ERRORS continue",
                        "remove ERRORS continue, or remove this UNDO")  # fmt: skip


def _warn_of_flows_that_keep_more(
    trees: Mapping[str, FlowNode], flows: Mapping[str, Flow], report: Report
) -> None:
    """Warn of each RUN whose flow keeps values that the flow with the RUN does not keep."""
    for flow in flows.values():
        if flow.keeping is UNSET:
            continue
        for step in flow.steps:
            inner = flows.get(step.flow) if isinstance(step, SubFlow) else None
            if isinstance(step, SubFlow) and inner is not None and _keeps_more(inner, flow.keeping):
                line = _line(trees[flow.id], step.line)
                report.warn("F139", line, line.words[1],
                            f"flow {inner.id} keeps values that flow {flow.id} does not keep",
                            f"give flow {inner.id} the same KEEP and MASK")  # fmt: skip


def _keeps_more(flow: Flow, limits: KeepSettings) -> bool:
    keeping = KeepSettings() if flow.keeping is UNSET else flow.keeping
    amounts = list(Keep)  # from nothing to everything
    if keeping.keep is Keep.NONE:
        return False
    return amounts.index(keeping.keep) > amounts.index(limits.keep) or not (
        set(limits.mask) <= set(keeping.mask)
    )


def _least_ms(flow: Flow, least_ms_by_flow: Mapping[str, int]) -> int:
    """The time that a run of a flow needs if all calls are answered immediately."""
    durations = [(step, _step_ms(step, least_ms_by_flow)) for step in flow.steps]
    if flow.order is not Order.DATAFLOW:
        return sum(ms for _, ms in durations)
    ends_ms: dict[int, int] = {}  # call number -> time at which its result is known
    begin_ms = last_end_ms = 0
    for step, ms in durations:
        if isinstance(step, (Call, SubFlow)):
            needs_end_ms = max((ends_ms.get(number, 0) for number in needs(step)), default=0)
            end_ms = max(needs_end_ms, begin_ms) + ms
            ends_ms[step.number] = end_ms
            last_end_ms = max(last_end_ms, end_ms)
        elif ms:  # a WAIT begins after all earlier steps and delays all later steps
            begin_ms = last_end_ms = last_end_ms + ms
    return last_end_ms


def _step_ms(step: Step, least_ms_by_flow: Mapping[str, int]) -> int:
    match step:
        case Wait():
            return step.ms if constant_result(step.when) else 0
        case SubFlow():
            return least_ms_by_flow.get(step.flow, 0) if constant_result(step.when) else 0
        case Call() | Publish() | Reply():
            return 0
