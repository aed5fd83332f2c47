"""Flows with every kind of step, for tests of test cases (``flows test``)."""

from __future__ import annotations

from fractal_rm.cases.read import read_cases
from fractal_rm.cases.run import run_case
from fractal_rm.config.model import Config
from fractal_rm.domain.expression import Item, Payload, Result
from fractal_rm.domain.flow import (
    Call,
    CallOptions,
    Content,
    Flow,
    ForEach,
    Method,
    Order,
    Publish,
    Reply,
    SubFlow,
    Undo,
    Wait,
)

WITH_WAIT = Flow(
    "1",
    steps=(
        Call(1, "a", "1", Method.POST, (Payload(),)),
        Wait(3_600_000),
        Publish("seen/it", Content(items=(Result(1),))),
        Call(2, "b", "1", Method.GET),
        Reply(Content(items=(Result(1),))),
    ),
)
WITH_SUB_FLOW = Flow("2", steps=(SubFlow(1, "3", Content(items=(Payload("inner"),))),))
SUB_FLOW = Flow("3", steps=(Call(1, "b", "1", Method.POST, (Payload(),)), Wait(60_000)))
WITH_FOREACH = Flow(
    "4",
    steps=(
        Call(
            1,
            "a",
            "1",
            Method.POST,
            (Item(),),
            options=CallOptions(foreach=ForEach(Payload("all"), 2)),
        ),
    ),
)
WITH_UNDO = Flow(
    "5",
    steps=(
        Call(1, "a", "1", Method.POST, options=CallOptions(undo=Undo("2", (Result(1),)))),
        Call(2, "b", "1", Method.GET),
    ),
)
DATAFLOW = Flow(
    "6",
    steps=(Call(1, "a", "1", Method.GET), Call(2, "b", "1", Method.GET)),
    order=Order.DATAFLOW,
)
ALL_STEPS = {
    each.id: each
    for each in (WITH_WAIT, WITH_SUB_FLOW, SUB_FLOW, WITH_FOREACH, WITH_UNDO, DATAFLOW)
}


def differences(config: Config, text: str) -> list[tuple[str, str, str]]:
    """Run a test case with the TOML text ``text``. Returns the differences from its expectations.

    Each difference has what differs, the expected value, and the value that the run had.
    """
    (case,) = read_cases(f'[[case]]\nname = "it"\n{text}', config)
    return [(each.what, each.expected, each.got) for each in run_case(case, config).differences]
