"""The parsed lines of a flows.conf. The names in them are not resolved yet."""

from __future__ import annotations

from typing import Union

import msgspec

from fractal_rm.flowlang.scan import Line, Word


class ToNode(msgspec.Struct, frozen=True, gc=False):
    """``TO <component> <endpoint>``."""

    line: Line
    component: Word
    endpoint: Word


class ModifierNode(msgspec.Struct, frozen=True, gc=False):
    """A line that is indented under an instruction, such as ``TIMEOUT 5s``."""

    line: Line
    keyword: Word


class StepNode(msgspec.Struct, frozen=True, gc=False):
    """The line of a step, with its modifiers in order."""

    line: Line
    keyword: Word
    modifiers: list[ModifierNode] = []


Instruction = Union[ToNode, StepNode]


class FlowNode(msgspec.Struct):
    """A flow's header, the lines of its settings, and its instructions in order.

    If the next line is a modifier, it belongs to ``current_step``. ``incomplete`` is true if a
    line was left out because it could not be parsed. Then errors that may only result from the
    missing line are not reported.
    """

    line: Line
    id: Word
    title: str
    settings: list[Line] = []
    instructions: list[Instruction] = []
    current_step: StepNode | None = None
    incomplete: bool = False
