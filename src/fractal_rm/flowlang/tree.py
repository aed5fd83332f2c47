"""What a flows.conf says, before its names are looked up."""

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
    """A line that is indented under an instruction and says how it is done."""

    line: Line
    keyword: Word


class StepNode(msgspec.Struct, frozen=True, gc=False):
    """A line that becomes a step, and the modifiers under it, in order."""

    line: Line
    keyword: Word
    modifiers: list[ModifierNode] = []


Instruction = Union[ToNode, StepNode]


class FlowNode(msgspec.Struct):
    """A flow's header, the lines of its settings, and its instructions in order.

    ``step`` is what a modifier in the next line would belong to. ``doubtful``: a line of it was not
    understood, so what would follow from that is not said.
    """

    line: Line
    id: Word
    title: str
    settings: list[Line] = []
    instructions: list[Instruction] = []
    step: StepNode | None = None
    doubtful: bool = False
