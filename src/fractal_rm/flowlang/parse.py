"""Lines into a tree. Every line is either understood or a finding.

file  = { blank | flow }
flow  = number [title] EOL { setting EOL } { instruction EOL { indented-modifier EOL } } blank

Which line is a setting, an instruction or a modifier its first word says. What follows that word is
read by the function that the keyword has in its table:

settings      `settings.SETTINGS`: ON EVERY CRON …, before the first instruction
instructions  `instructions.INSTRUCTIONS`: GET POST … RUN WAIT PUBLISH REPLY; and TO, read here
modifiers     `terms.MODIFIERS`: WHEN AS TIMEOUT …, further to the right than their instruction
"""

from __future__ import annotations

from collections.abc import Iterable

from fractal_rm.flowlang.instructions import INSTRUCTIONS
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line
from fractal_rm.flowlang.settings import SETTINGS
from fractal_rm.flowlang.terms import MODIFIERS
from fractal_rm.flowlang.tree import FlowNode, ModifierNode, StepNode, ToNode
from fractal_rm.flowlang.words import too_many

KEYWORDS = tuple(dict.fromkeys(("TO", *INSTRUCTIONS, *SETTINGS, *MODIFIERS)))
_HINT = "a line begins with TO, a call such as GET or POST, a setting, or what is said of a call"


def parse(lines: Iterable[Line], report: Report) -> list[FlowNode]:
    """Make the flows of a file. What cannot be understood goes to ``report`` and is left out."""
    flows: list[FlowNode] = []
    current: FlowNode | None = None
    lost = False  # a line was not understood outside of a flow: it may have been its header
    for line in lines:
        if not line.words:
            current, lost = None, False
        elif line.words[0].text[0].isdigit():
            current = _header(line, current, report)
            flows.append(current)
        elif current is None:
            lost = lost or _outside(line, report)
        else:
            _inside(line, current, report)
    return flows


def _header(line: Line, before: FlowNode | None, report: Report) -> FlowNode:
    number = line.words[0]
    if before is not None:
        report.add("F112", line, number, f"flow {number.text} begins inside flow {before.id.text}",
                   "put a blank line before it")  # fmt: skip
    if not (number.text.isascii() and number.text.isdigit()):
        report.add("F101", line, number, f'"{number.text}" is not a flow\'s number',
                   "a flow begins with its number; a title may follow after a space")  # fmt: skip
    return FlowNode(line, number, line.rest)


def _outside(line: Line, report: Report) -> bool:
    """A line that belongs to no flow. True: it may have been meant to begin one."""
    word = line.words[0]
    hint = "a flow begins with its number and ends with a blank line"
    if word.text in KEYWORDS:
        report.add("F111", line, word, f"this {word.text} belongs to no flow", hint)
        return False
    report.add("F101", line, word, f'"{word.text}" is not the beginning of a flow', hint)
    return True


def _inside(line: Line, flow: FlowNode, report: Report) -> None:
    keyword = line.words[0].text
    if keyword in INSTRUCTIONS:
        flow.step = StepNode(line, line.words[0])
        flow.instructions.append(flow.step)
    elif keyword == "TO":
        _to(line, flow, report)
    elif keyword in MODIFIERS and (keyword not in SETTINGS or flow.step):
        _modifier(line, flow, report)
    elif keyword in SETTINGS:
        _setting(line, flow, report)
    else:
        _unknown(line, flow, report)


def _to(line: Line, flow: FlowNode, report: Report) -> None:
    flow.step = None
    if len(line.words) == 3:
        flow.instructions.append(ToNode(line, line.words[1], line.words[2]))
        return
    flow.doubtful = True
    report.add("F103", line, too_many(line.words, 3), "TO takes a component and an endpoint",
               "write: TO <component> <endpoint>")  # fmt: skip


def _setting(line: Line, flow: FlowNode, report: Report) -> None:
    if not flow.instructions:
        flow.settings.append(line)
        return
    keyword = line.words[0]
    report.add("F114", line, keyword, f"{keyword.text} comes too late",
               "settings stand before the first instruction of a flow")  # fmt: skip


def _modifier(line: Line, flow: FlowNode, report: Report) -> None:
    keyword, step = line.words[0], flow.step
    if step is None:
        if not flow.doubtful:
            deadline = "; a limit for the whole flow is DEADLINE" * (keyword.text == "TIMEOUT")
            report.add("F116", line, keyword, f"this {keyword.text} stands under no call",
                       f"indent it under the call that it is for{deadline}")  # fmt: skip
        return
    takes = INSTRUCTIONS[step.keyword.text].modifiers
    further = line.indent > step.line.indent
    if keyword.text not in takes and keyword.text in SETTINGS and not further:
        _setting(line, flow, report)
    elif keyword.text not in takes:
        report.add("F126", line, keyword, f"{step.keyword.text} takes no {keyword.text}",
                   f"it takes {' and '.join(takes)}")  # fmt: skip
    elif not further:
        flow_s_own = "; that of the flow comes before the first instruction"
        report.add("F116", line, keyword, f"{keyword.text} belongs to a call",
                   f"indent it further than the {step.keyword.text} that it is for"
                   + flow_s_own * (keyword.text in SETTINGS))  # fmt: skip
    else:
        step.modifiers.append(ModifierNode(line, keyword))


def _unknown(line: Line, flow: FlowNode, report: Report) -> None:
    """A line that is none. Where it was plainly meant to be a modifier, no call is missing."""
    keyword = line.words[0]
    meant = report.nearest(keyword.text, KEYWORDS)
    hint = f'did you mean "{meant}"?' if meant else _HINT
    report.add("F101", line, keyword, f'"{keyword.text}" is not an instruction', hint)
    if meant not in MODIFIERS:
        flow.step = None
    if meant not in MODIFIERS or meant == "AS":
        flow.doubtful = True
