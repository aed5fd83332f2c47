"""What is certain before anything has run.

Flows that run each other without end, or begin themselves again, and deadlines that end before
their flow can.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from msgspec import UNSET

from fractal_rm.domain.flow import Call, Errors, Flow, Order, Publish, Step, SubFlow, Wait
from fractal_rm.domain.needs import needs
from fractal_rm.domain.topic import matches
from fractal_rm.flowlang.certain import always
from fractal_rm.flowlang.duration import duration
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line
from fractal_rm.flowlang.tree import FlowNode, StepNode
from fractal_rm.flowlang.words import words_of

MOST_TOLD = 5  # flows of a circle
MOST_COMPARED = 100_000  # topics of a file: a flow may have thousands that begin it, and publish


def foresee(trees: list[FlowNode], flows: Mapping[str, Flow], report: Report) -> None:
    """Report what follows from the flows as a whole."""
    by_id: dict[str, FlowNode] = {}
    for tree in trees:
        by_id.setdefault(tree.id.text, tree)
    least_ms: dict[str, int] = {}
    for flow in _inner_first(by_id, flows, report):
        least_ms[flow.id] = least = _least_ms(flow, least_ms)
        if flow.deadline_ms is not UNSET:
            if flow.deadline_ms <= least:
                _deadline_too_short(by_id[flow.id], least, report)
            least_ms[flow.id] = min(least, flow.deadline_ms)
        if flow.errors is Errors.CONTINUE:
            _never_undone(by_id[flow.id], report)
    _begin_themselves(by_id, flows, report)


def _inner_first(
    trees: Mapping[str, FlowNode], flows: Mapping[str, Flow], report: Report
) -> Iterator[Flow]:
    """Every flow after those that it runs in any case. A circle of them is a finding."""
    done: set[str] = set()
    for flow in flows.values():
        if flow.id in done:
            continue
        under_way = {flow.id: _always_run(flow)}  # each with what is still to be gone into
        while under_way:
            outer, runs = next(reversed(under_way.items()))
            step = next((each for each in runs if each.flow in flows), None)
            if step is None:
                under_way.popitem()
                done.add(outer)
                yield flows[outer]
            elif step.flow in under_way:
                if not report.full:
                    circle = [*_since(step.flow, under_way), f"flow {step.flow}"]
                    _circle(circle, step, trees[outer], report)
            elif step.flow not in done:
                under_way[step.flow] = _always_run(flows[step.flow])


def _always_run(flow: Flow) -> Iterator[SubFlow]:
    return (step for step in flow.steps if isinstance(step, SubFlow) and always(step.when))


def _since(first: str, under_way: dict[str, Iterator[SubFlow]]) -> list[str]:
    """The flows of a circle, of a long one the first and the last ones."""
    circle: list[str] = []
    for flow in reversed(under_way):
        circle.append(f"flow {flow}")
        if flow == first:
            break
        if len(circle) == MOST_TOLD:
            circle += "…", f"flow {first}"
            break
    return circle[::-1]


def _circle(circle: list[str], step: SubFlow, tree: FlowNode, report: Report) -> None:
    line = _line(tree, step.line)
    report.add("F129", line, line.words[1], f"this never ends: {' runs '.join(circle)}",
               "give one RUN of them a WHEN")  # fmt: skip


def _line(tree: FlowNode, number: int) -> Line:
    return next(node.line for node in tree.instructions if node.line.number == number)


def _deadline_too_short(tree: FlowNode, least_ms: int, report: Report) -> None:
    line = next(each for each in tree.settings if each.words[0].text == "DEADLINE")
    least = duration(least_ms)
    report.warn("F135", line, line.words[1],
                f"flow {tree.id.text} waits for {least} at least, so it always expires",
                f"make DEADLINE longer than {least}")  # fmt: skip


def _begin_themselves(
    trees: Mapping[str, FlowNode], flows: Mapping[str, Flow], report: Report
) -> None:
    """Warn of flows that publish in any case what begins them, of each once."""
    found: dict[str, tuple[Publish, str]] = {}
    for flow_id, step, topic_filter in islice(_published_and_begun_at(flows), MOST_COMPARED):
        if flow_id not in found and matches(topic_filter, step.topic):
            found[flow_id] = step, topic_filter
    for flow_id, (step, topic_filter) in found.items():
        line = _line(trees[flow_id], step.line)
        report.warn("F137", line, words_of(line)[1],
                    f"this message begins flow {flow_id} again, without end: it has"
                    f" ON {topic_filter}",
                    "give PUBLISH a WHEN, or another topic")  # fmt: skip


def _published_and_begun_at(flows: Mapping[str, Flow]) -> Iterator[tuple[str, Publish, str]]:
    """Each topic that a flow publishes to in any case, beside each filter that begins the flow."""
    for flow in flows.values():
        if flow.starts is UNSET or not flow.starts.topics:
            continue
        for step in flow.steps:
            if isinstance(step, Publish) and step.topic and always(step.when):
                yield from ((flow.id, step, each) for each in flow.starts.topics)


def _never_undone(tree: FlowNode, report: Report) -> None:
    steps = (node for node in tree.instructions if isinstance(node, StepNode))
    for undo in (each for step in steps for each in step.modifiers):
        if undo.keyword.text == "UNDO":
            report.warn("F134", undo.line, undo.keyword, "under ERRORS continue nothing is undone",
                        "take ERRORS continue out, or this line")  # fmt: skip


def _least_ms(flow: Flow, of_others: Mapping[str, int]) -> int:
    """The time that a run of a flow needs, were every call answered at once."""
    took = [(step, _takes_ms(step, of_others)) for step in flow.steps]
    if flow.order is not Order.DATAFLOW:
        return sum(ms for _, ms in took)
    ends: dict[int, int] = {}  # by number: when each result is there
    since = latest = 0
    for step, ms in took:
        if isinstance(step, (Call, SubFlow)):
            begins = max((ends.get(number, 0) for number in needs(step)), default=0)
            ends[step.number] = end = max(begins, since) + ms
            latest = max(latest, end)
        elif ms:  # a WAIT: everything before it is finished, everything after it waits
            since = latest = latest + ms
    return latest


def _takes_ms(step: Step, of_others: Mapping[str, int]) -> int:
    if isinstance(step, Wait):
        return step.ms if always(step.when) else 0
    if isinstance(step, SubFlow):
        return of_others.get(step.flow, 0) if always(step.when) else 0
    return 0
