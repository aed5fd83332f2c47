"""What a flows.conf says, before its names are looked up."""

from __future__ import annotations

from typing import Union

import msgspec

from fractal_rm.domain.flow import Method
from fractal_rm.flowlang.scan import Line, Word


class ToNode(msgspec.Struct, frozen=True):
    """``TO <component> <endpoint>``."""

    line: Line
    component: Word
    endpoint: Word


class ModifierNode(msgspec.Struct, frozen=True):
    """A line that is indented under a call and changes how it is made."""

    line: Line
    keyword: Word


class CallNode(msgspec.Struct, frozen=True):
    """``GET``, or ``POST`` and what it sends; and the modifiers under it, in order."""

    line: Line
    keyword: Word
    method: Method
    modifiers: list[ModifierNode] = []


Instruction = Union[ToNode, CallNode]


class FlowNode(msgspec.Struct):
    """A flow's header, its settings by keyword, and its instructions in order.

    ``call`` is what a modifier in the next line would belong to. ``doubtful``: a line of it was not
    understood, so what would follow from that is not said.
    """

    line: Line
    id: Word
    title: str
    settings: dict[str, Word] = {}
    instructions: list[Instruction] = []
    call: CallNode | None = None
    doubtful: bool = False
