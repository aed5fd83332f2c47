"""Parses lines into a tree. A line that cannot be parsed becomes a finding.

file  = { blank | flow }
flow  = number [title] EOL { setting EOL } { instruction EOL { indented-modifier EOL } } blank

The first word decides whether a line is a setting, an instruction or a modifier. The tables of
keywords name the function that reads the rest of the line:

settings      `settings.SETTINGS`: ON EVERY CRON …, before the first instruction
instructions  `instructions.INSTRUCTIONS`: GET POST … RUN WAIT PUBLISH REPLY; TO is read here
modifiers     `modifiers.MODIFIERS`: WHEN AS TIMEOUT …, indented under their instruction
"""

from __future__ import annotations

from collections.abc import Iterable

from fractal_rm.flowlang.instructions import INSTRUCTIONS
from fractal_rm.flowlang.modifiers import MODIFIERS
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line
from fractal_rm.flowlang.settings import SETTINGS
from fractal_rm.flowlang.tree import FlowNode, ModifierNode, StepNode, ToNode
from fractal_rm.flowlang.words import surplus_or_keyword

KEYWORDS = tuple(dict.fromkeys(("TO", *INSTRUCTIONS, *SETTINGS, *MODIFIERS)))
_HINT = (
    "a line begins with TO, a call such as GET or POST, a setting such as ON, or a modifier such as"
    " TIMEOUT"
)


def parse(lines: Iterable[Line], report: Report) -> list[FlowNode]:
    """The flows of a file. A line that cannot be parsed is reported and left out."""
    flows: list[FlowNode] = []
    current: FlowNode | None = None
    header_reported = False  # whether a line that may be a wrong header was reported
    for line in lines:
        if not line.words:
            current, header_reported = None, False
        elif line.words[0].text[0].isdigit():
            current = _read_header(line, current, report)
            flows.append(current)
        elif current is None:
            if not header_reported:
                header_reported = _report_outside(line, report)
        else:
            _read_line(line, current, report)
    return flows


def _read_header(line: Line, unended_flow: FlowNode | None, report: Report) -> FlowNode:
    number = line.words[0]
    if unended_flow is not None:
        report.add("F112", line, number, f"flow {number.text} begins inside flow"
                   f" {unended_flow.id.text}",
                   "write a blank line before this line")  # fmt: skip
    if not (number.text.isascii() and number.text.isdigit()):
        report.add("F101", line, number, f'"{number.text}" is not a flow\'s number',
                   "a flow begins with its number; a title may follow, after a space")  # fmt: skip
    return FlowNode(line, number, line.rest)


def _report_outside(line: Line, report: Report) -> bool:
    """Report a line outside of flows. Returns whether the line may be a wrong header of a flow."""
    word = line.words[0]
    hint = "a flow begins with a line with its number, and ends with a blank line"
    if word.text in KEYWORDS:
        report.add("F111", line, word, f"this {word.text} is outside of any flow", hint)
        return False
    report.add("F101", line, word, f'"{word.text}" cannot begin a flow', hint)
    return True


def _read_line(line: Line, flow: FlowNode, report: Report) -> None:
    keyword = line.words[0].text
    if keyword in INSTRUCTIONS:
        flow.current_step = StepNode(line, line.words[0])
        flow.instructions.append(flow.current_step)
    elif keyword == "TO":
        _read_to(line, flow, report)
    elif keyword in MODIFIERS and (keyword not in SETTINGS or flow.current_step):
        _read_modifier(line, flow, report)
    elif keyword in SETTINGS:
        _read_setting(line, flow, report)
    else:
        _report_unknown(line, flow, report)


def _read_to(line: Line, flow: FlowNode, report: Report) -> None:
    flow.current_step = None
    if len(line.words) == 3:
        flow.instructions.append(ToNode(line, line.words[1], line.words[2]))
        return
    flow.incomplete = True
    at = surplus_or_keyword(line.words, 3)
    report.add("F103", line, at, "TO needs a component and an endpoint",
               "write: TO <component> <endpoint>")  # fmt: skip


def _read_setting(line: Line, flow: FlowNode, report: Report) -> None:
    if not flow.instructions:
        flow.settings.append(line)
        return
    keyword = line.words[0]
    report.add("F114", line, keyword, f"{keyword.text} is after the first instruction",
               f"move {keyword.text} before the first instruction of the flow")  # fmt: skip


def _read_modifier(line: Line, flow: FlowNode, report: Report) -> None:
    keyword, step = line.words[0], flow.current_step
    if step is None:
        if not flow.incomplete:
            hint = "write it under its call, indented"
            if keyword.text == "TIMEOUT":
                hint += "; for the whole flow, write DEADLINE"
            fault = f"there is no call above this {keyword.text}"
            report.add("F116", line, keyword, fault, hint)
        return
    allowed = INSTRUCTIONS[step.keyword.text].modifiers
    is_indented = line.indent > step.line.indent
    if keyword.text not in allowed and keyword.text in SETTINGS and not is_indented:
        _read_setting(line, flow, report)
    elif keyword.text not in allowed:
        report.add("F126", line, keyword, f"{step.keyword.text} cannot have {keyword.text}",
                   f"{step.keyword.text} can have {' and '.join(allowed)}")  # fmt: skip
    elif not is_indented:
        hint = f"indent {keyword.text} more than its {step.keyword.text}"
        if keyword.text in SETTINGS:
            hint += f"; a {keyword.text} of the whole flow goes before its first instruction"
        fault = f"{keyword.text} belongs to a call, and is not indented"
        report.add("F116", line, keyword, fault, hint)
    else:
        step.modifiers.append(ModifierNode(line, keyword))


def _report_unknown(line: Line, flow: FlowNode, report: Report) -> None:
    """Report a line with an unknown keyword.

    If the keyword is a misspelt modifier, no instruction is missing, so later errors are still
    reported.
    """
    keyword = line.words[0]
    nearest_keyword = report.nearest(keyword.text, KEYWORDS)
    hint = f'did you mean "{nearest_keyword}"?' if nearest_keyword else _HINT
    report.add("F101", line, keyword, f'"{keyword.text}" is not an instruction', hint)
    if nearest_keyword not in MODIFIERS:
        flow.current_step = None
    if nearest_keyword not in MODIFIERS or nearest_keyword == "AS":
        flow.incomplete = True
