"""Causes are a fixed, documented set. Every reason has a cause, and no code parses a reason."""

import ast
import re
from functools import cache
from pathlib import Path

import msgspec
import pytest

import fractal_rm.wiring  # noqa: F401 - imports all error classes
from fractal_rm.domain.call_errors import CallFailed
from fractal_rm.domain.cause import Cause, Failure
from fractal_rm.domain.facts import AnyFact, Dead, Parked, Placed, Settled
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.refusals import Refused
from fractal_rm.domain.run import Run, apply_fact
from fractal_rm.domain.state import State

ROOT = Path(__file__).parents[2]
WITH_CAUSE = {"Placed", "StepFailed", "Stopping", "Parked", "Replying", "Settled", "Failure"}
# How many positional fields are before the cause. The default is 2.
FIELDS_BEFORE_CAUSE = {"Placed": 3, "StepFailed": 7, "Parked": 1, "Failure": 0}


def read(fact: str):
    return msgspec.json.decode(fact, type=AnyFact)


def subclasses(kind: type[Exception]):
    """The class itself and all its subclasses."""
    yield kind
    for subclass in kind.__subclasses__():
        yield from subclasses(subclass)


@cache
def syntax_trees() -> dict[str, ast.Module]:
    """The syntax tree of each source file, by its path."""
    paths = sorted((ROOT / "src").rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


def nodes(kind):
    """Yield the place (path and line) and the node of each syntax node of this kind."""
    for path, tree in syntax_trees().items():
        for node in ast.walk(tree):
            if isinstance(node, kind):
                yield f"{path}:{node.lineno}", node


def test_every_cause_of_the_program_is_documented():
    page = (ROOT / "docs/reference/causes.md").read_text()
    documented = re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)
    assert sorted([*documented, "other"]) == sorted(cause.value for cause in Cause)


@pytest.mark.parametrize("kind", [CallFailed, CannotEvaluate])
def test_every_error_that_fails_a_step_has_a_cause(kind):
    assert [each.code for each in subclasses(kind) if Cause(each.code) is Cause.OTHER] == []


def test_every_final_refusal_has_a_cause():
    final = [each for each in subclasses(Refused) if each.final and each is not Refused]
    assert [each.code for each in final if Cause(each.code) is Cause.OTHER] == []


def test_every_cause_is_used():
    used = {node.attr for _, node in nodes(ast.Attribute) if node.attr.isupper()}
    codes = {each.code for kind in (CallFailed, CannotEvaluate, Refused)
             for each in subclasses(kind)}  # fmt: skip
    unused = [each for each in Cause if each.name not in used and each.value not in codes]
    assert unused == []


def test_every_fact_with_a_reason_has_a_cause():
    without_cause = []
    for place, call in nodes(ast.Call):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        if name not in WITH_CAUSE or "testing/" in place:
            continue
        has_keyword = any(keyword.arg == "cause" for keyword in call.keywords)
        succeeds = name == "Settled" and len(call.args) == 1
        if not has_keyword and not succeeds and len(call.args) <= FIELDS_BEFORE_CAUSE.get(name, 2):
            without_cause.append(place)
    assert without_cause == []


def test_no_code_parses_a_reason():
    """Flow cases are an exception: a case may expect words in a reason."""
    reads_of_a_reason = [
        place
        for place, call in nodes(ast.Call)
        if isinstance(call.func, ast.Attribute)
        and (
            is_reason(call.func.value)
            or (call.func.attr in MATCH_FUNCTIONS and any(map(is_reason, call.args)))
        )
    ]
    reads_of_a_reason += [
        place
        for place, compared in nodes(ast.Compare)
        if isinstance(compared.ops[0], (ast.In, ast.NotIn)) and is_reason(compared.comparators[0])
    ]
    assert [place for place in reads_of_a_reason if "cases/judge.py" not in place] == []


MATCH_FUNCTIONS = {"match", "search", "fullmatch", "findall", "finditer"}


def is_reason(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "reason"


# --- in facts -----------------------------------------------------------------------------------


def test_an_unknown_cause_is_read_as_other():
    fact = read('{"fact": "settled", "state": "failed", "reason": "x", "cause": "brand-new"}')
    assert fact.cause is Cause.OTHER
    dead = read('{"fact": "dead", "code": "brand-new", "reason": "x"}')
    assert (dead.cause, dead.code) == (Cause.OTHER, "brand-new")


def test_the_cause_of_a_run_belongs_to_its_reason():
    run = Run("R", Flow("1"), 0)
    apply_fact(run, Placed(None, "no balancer", cause=Cause.NO_BALANCER))
    apply_fact(run, Settled(State.SUCCEEDED))
    assert (run.reason, run.cause) == ("no balancer", Cause.NO_BALANCER)
    apply_fact(run, Settled(State.FAILED, "step 1: status 500", Cause.STATUS))
    assert run.cause is Cause.STATUS
    apply_fact(run, Parked("old", Cause.OLD))
    assert run.cause is Cause.OLD
    apply_fact(run, Dead("attempts", "3 times"))
    assert run.cause is Cause.ATTEMPTS


def test_a_run_whose_reason_an_older_release_wrote_has_no_cause():
    run = Run("R", Flow("1"), 0)
    apply_fact(run, Placed(None, "no balancer", cause=Cause.NO_BALANCER))
    apply_fact(run, read('{"fact": "settled", "state": "failed", "reason": "step 1: status 500"}'))
    assert (run.reason, run.cause) == ("step 1: status 500", None)


def test_a_failure_has_the_cause_and_the_reason_of_its_error():
    assert Failure.of(CallFailed("no", sent=True)) == Failure(Cause.CALL_FAILED, "no")
