"""What the answer of a node shows an operator: its program, and whether its id is right."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Union

import msgspec

from fractal_rm.domain.clock_offset import ClockOffset
from fractal_rm.domain.node_description import NodeDescription

PROBLEM_TYPE = "application/problem+json"  # RFC 9457: an original does not use it
_METHOD_NOT_ALLOWED = 405


class Program(str, Enum):
    """The program that answers at the address of a node."""

    FRACTAL_RM = "fractal-rm"
    ORIGINAL = "original"
    UNKNOWN = "unknown"


class Described(msgspec.Struct, frozen=True):
    """The node has described itself. ``clock`` is the offset of its clock."""

    description: NodeDescription
    clock: ClockOffset


class Answered(msgspec.Struct, frozen=True):
    """A program has answered without a description. ``reason`` is a text about its answer.

    ``accepts_post``: it refuses the question, but not a POST of this node. So it is a release of
    this program that does not know the question.
    """

    status: int
    content_type: str | None
    reason: str
    accepts_post: bool = False

    @property
    def program(self) -> Program:
        """The program that gave this answer.

        Nodes of this program send each error as a problem. Releases without a description answer
        405, or 403 to other machines. An original answers 405, because it knows only POST.
        """
        media_type = (self.content_type or "").partition(";")[0].strip().lower()
        if media_type == PROBLEM_TYPE:
            return Program.FRACTAL_RM
        return Program.ORIGINAL if self.status == _METHOD_NOT_ALLOWED else Program.UNKNOWN

    @property
    def is_reachable(self) -> bool:
        """Whether the answer is the one of a node that cannot describe itself."""
        return self.status == _METHOD_NOT_ALLOWED or self.accepts_post


class NotReached(msgspec.Struct, frozen=True):
    """Nothing has answered. ``reason`` is a text for people. ``timed_out``: not within the time."""

    reason: str
    timed_out: bool = False


Answer = Union[Described, Answered, NotReached]


def fault_of(answer: Answer) -> str:
    """Why a node cannot take runs; empty: it answers as a node does."""
    if isinstance(answer, Described):
        return ""
    return "" if isinstance(answer, Answered) and answer.is_reachable else answer.reason


def id_order(node: str) -> tuple[bool, int, str]:
    """The key by which ids of nodes are sorted: numbers first, by their value."""
    is_number = node.isascii() and node.isdigit()
    return not is_number, len(node.lstrip("0")) if is_number else 0, node


def id_warnings(
    answers: Mapping[str, Answer], own_id: str | None, own_store: str | None
) -> list[tuple[str, str]]:
    """What is wrong with the ids of nodes: the id in nodes.conf, and a text for people.

    ``answers`` are by the ids of nodes.conf. ``own_id`` is the id of this node, and ``own_store``
    identifies its state folder; they are None if they are not known.
    """
    warnings: list[tuple[str, str]] = []
    first_with: dict[str, tuple[str, str]] = {}
    for entry, answer in answers.items():
        if not isinstance(answer, Described):
            continue
        node, store = answer.description.node, answer.description.store
        is_other_machine = own_store is not None and store != own_store
        if node == own_id and is_other_machine:
            text = f"it has the id {node}, which is also the id of this node: the id is used twice"
            warnings.append((entry, text))
        elif node != entry:
            whose = ", the id of this node" if node == own_id else ""
            warnings.append((entry, f"the node at this address has the id {node}{whose}"))
        other_entry, other_store = first_with.setdefault(node, (entry, store))
        if store != other_store:
            text = f"it has the id {node}, like the node at the address of node {other_entry}"
            warnings.append((entry, f"{text}: the id is used twice"))
    return warnings
