"""Lines into a tree. Every line is either understood or a finding.

file  = { blank | flow }
flow  = number [title] EOL { setting EOL } { instruction EOL } blank
setting     = "DURABLE" ( "accept" | "step" ) | "ERRORS" ( "stop" | "continue" ) | "DEADLINE" time
instruction = "TO" component endpoint | call { EOL indented-modifier }
call        = "GET" | "DELETE" | ( "POST" | "PUT" | "PATCH" ) body

What follows a method or a modifier is read when its names are looked up: see `resolve`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fractal_rm.domain.findings import did_you_mean, nearest
from fractal_rm.domain.flow import Durable, Errors, Method
from fractal_rm.flowlang.duration import LIKE, duration_ms
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.terms import MODIFIERS
from fractal_rm.flowlang.tree import CallNode, FlowNode, Instruction, ModifierNode, ToNode


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
            _instruction(line, current, report)
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
    if word.text in _KNOWN:
        report.add("F111", line, word, f"this {word.text} belongs to no flow", hint)
        return False
    report.add("F101", line, word, f'"{word.text}" is not the beginning of a flow', hint)
    return True


def _instruction(line: Line, flow: FlowNode, report: Report) -> None:
    keyword = line.words[0]
    if keyword.text in SETTINGS:
        _setting(line, flow, report)
        return
    if keyword.text in MODIFIERS:
        _modifier(line, flow, report)
        return
    read = _KEYWORDS.get(keyword.text)
    if read is None:
        _unknown(line, flow, report)
        return
    instruction = read(line, keyword, report)
    flow.call = instruction if isinstance(instruction, CallNode) else None
    if instruction is None:
        flow.doubtful = True
    else:
        flow.instructions.append(instruction)


def _unknown(line: Line, flow: FlowNode, report: Report) -> None:
    """A line that is none. Where it was plainly meant to be a modifier, no call is missing."""
    keyword = line.words[0]
    hint = did_you_mean(keyword.text, _KNOWN) or _HINT
    report.add("F101", line, keyword, f'"{keyword.text}" is not an instruction', hint)
    meant = nearest(keyword.text, _KNOWN)
    if meant not in MODIFIERS:
        flow.call = None
    if meant not in MODIFIERS or meant == "AS":
        flow.doubtful = True


def _modifier(line: Line, flow: FlowNode, report: Report) -> None:
    keyword = line.words[0]
    if flow.call is None:
        if not flow.doubtful:
            deadline = "; a limit for the whole flow is DEADLINE" * (keyword.text == "TIMEOUT")
            report.add("F116", line, keyword, f"this {keyword.text} stands under no call",
                       f"indent it under the call that it is for{deadline}")  # fmt: skip
    elif line.indent <= flow.call.line.indent:
        method = flow.call.keyword.text
        report.add("F116", line, keyword, f"{keyword.text} belongs to a call",
                   f"indent it further than the {method} that it is for")  # fmt: skip
    else:
        flow.call.modifiers.append(ModifierNode(line, keyword))


def _setting(line: Line, flow: FlowNode, report: Report) -> None:
    keyword, *values = line.words
    allowed = SETTINGS[keyword.text]
    if flow.instructions:
        report.add("F114", line, keyword, f"{keyword.text} comes too late",
                   "settings stand before the first instruction of a flow")  # fmt: skip
    elif keyword.text in flow.settings:
        report.add("F114", line, keyword, f"{keyword.text} is set already")
    elif len(values) != 1 or not _is_allowed(values[0].text, allowed):
        wrong = values[0] if values else keyword
        takes = f"one of: {', '.join(allowed)}" if allowed else LIKE
        report.add("F115", line, wrong, f"{keyword.text} takes {takes}",
                   did_you_mean(wrong.text, allowed))  # fmt: skip
    else:
        flow.settings[keyword.text] = values[0]


def _is_allowed(text: str, allowed: tuple[str, ...]) -> bool:
    return text in allowed if allowed else duration_ms(text) is not None


def _to(line: Line, keyword: Word, report: Report) -> Instruction | None:
    if len(line.words) != 3:
        report.add("F103", line, line.words[3] if len(line.words) > 3 else keyword,
                   "TO takes a component and an endpoint",
                   "write: TO <component> <endpoint>")  # fmt: skip
        return None
    return ToNode(line, line.words[1], line.words[2])


def _empty_call(line: Line, keyword: Word, report: Report) -> Instruction | None:
    if len(line.words) > 1:
        report.add("F109", line, line.words[1],
                   f"{keyword.text} sends nothing, so no item may follow it",
                   "to send items, use POST")  # fmt: skip
    return CallNode(line, keyword, Method(keyword.text))


def _call(line: Line, keyword: Word, report: Report) -> Instruction | None:  # noqa: ARG001 - as the others
    return CallNode(line, keyword, Method(keyword.text))


# What a setting may be; empty: a length of time.
SETTINGS: dict[str, tuple[str, ...]] = {
    "DURABLE": tuple(each.value for each in Durable),
    "DEADLINE": (),
    "ERRORS": tuple(each.value for each in Errors),
}

_KEYWORDS: dict[str, Callable[[Line, Word, Report], Instruction | None]] = {
    "TO": _to,
    **{method.value: _call if method.sends else _empty_call for method in Method},
}
_KNOWN = (*_KEYWORDS, *SETTINGS, *MODIFIERS)
_HINT = "a line begins with TO, a call such as GET or POST, a setting, or what is said of a call"
