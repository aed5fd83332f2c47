"""What the answers of nodes show: their program, and ids that are wrong or used twice."""

from __future__ import annotations

import pytest

from fractal_rm.domain.clock_offset import ClockOffset
from fractal_rm.domain.node_check import (
    Answered,
    Described,
    NotReached,
    Program,
    id_warnings,
)
from fractal_rm.domain.node_description import KIND, PROTOCOL, NodeDescription


def described(node: str, store: str = "s") -> Described:
    description = NodeDescription(KIND, "1.0", PROTOCOL, node, store, "boot")
    return Described(description, ClockOffset(0, 1))


@pytest.mark.parametrize(
    ("status", "content_type", "program", "is_reachable"),
    [
        (405, "application/problem+json", Program.FRACTAL_RM, True),  # an older release
        (405, "text/html; charset=utf-8", Program.ORIGINAL, True),
        (405, None, Program.ORIGINAL, True),
        (403, "Application/Problem+JSON; charset=utf-8", Program.FRACTAL_RM, False),
        (401, "application/problem+json", Program.FRACTAL_RM, False),
        (200, "text/html", Program.UNKNOWN, False),
        (404, "text/html", Program.UNKNOWN, False),
        (502, "text/html", Program.UNKNOWN, False),
    ],
)
def test_a_program_is_recognized_by_its_answer(status, content_type, program, is_reachable):
    answer = Answered(status, content_type, "")
    assert (answer.program, answer.is_reachable) == (program, is_reachable)


def test_the_ids_of_nodes_conf_cause_no_warning():
    answers = {"1": described("1", "own"), "2": described("2"), "3": NotReached("refused")}
    assert id_warnings(answers, "1", "own") == []
    assert id_warnings(answers, None, None) == []


def test_a_node_with_another_id_than_in_nodes_conf_is_named():
    assert id_warnings({"2": described("7")}, "1", "own") == [
        ("2", "the node at this address has the id 7")
    ]
    assert id_warnings({"2": described("1", "own")}, "1", "own") == [
        ("2", "the node at this address has the id 1, the id of this node")
    ]


def test_an_id_that_this_node_and_another_machine_use_is_named():
    text = "it has the id 1, which is also the id of this node: the id is used twice"
    assert id_warnings({"1": described("1", "other")}, "1", "own") == [("1", text)]


def test_an_id_that_two_other_nodes_use_is_named():
    answers = {"2": described("2", "a"), "3": described("2", "b")}
    assert id_warnings(answers, "1", "own") == [
        ("3", "the node at this address has the id 2"),
        ("3", "it has the id 2, like the node at the address of node 2: the id is used twice"),
    ]
