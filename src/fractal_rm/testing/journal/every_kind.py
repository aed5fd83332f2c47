"""Sample flows with every option and every kind of step, and facts of every kind."""

from __future__ import annotations

import msgspec

from fractal_rm.domain.expression import (
    AllOf,
    AnyOf,
    Base64,
    Compare,
    Comparison,
    Header,
    Item,
    ListOf,
    Literal,
    Not,
    ObjectOf,
    Payload,
    Result,
    Status,
)
from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    ElementFinished,
    Finished,
    Probed,
    RequestStarted,
    StepFailed,
    StepPassed,
    StepUndone,
    Stopping,
    WaitStarted,
)
from fractal_rm.domain.flow import (
    Call,
    CallOptions,
    CatchUp,
    Content,
    Cron,
    Flow,
    ForEach,
    Keep,
    KeepSettings,
    Method,
    OnError,
    Order,
    Publish,
    QueueSettings,
    Reply,
    Retry,
    StartSettings,
    SubFlow,
    Undo,
    Wait,
    flow_version,
)
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.probe import ProbeVerdict
from fractal_rm.domain.rate import Rate
from fractal_rm.domain.state import State

EVERY_OPTION = CallOptions(
    name="found",
    json=ObjectOf((("a", Result(1, "b[0]")), ("c", ListOf((Payload(), Literal([1, None])))))),
    when=AllOf((Compare(Comparison.IN, Status(1), Literal([200])), Not(Payload("x")))),
    expect=AnyOf((Compare(Comparison.EQUAL, Header(2, "etag"), Literal("7")), Literal(False))),
    timeout_ms=800,
    retry=Retry(3, 50),
    headers=(("X-A", Payload("a")),),
    query=(("q", Literal("b")),),
    kept_headers=("etag",),
)
EVERY_OPTION_FLOW = Flow(
    "8",
    steps=(
        Call(1, "c", "e", Method.PATCH, options=CallOptions(raw=Payload("text"))),
        Call(2, "c", "e", Method.PUT, options=EVERY_OPTION),
    ),
    deadline_ms=5_000,
    errors=OnError.CONTINUE,
    keeping=KeepSettings(mask=("person.name", "image")),
)
EVERY_STEP = Flow(
    "9",
    steps=(
        Call(1, "c", "e", Method.GET, options=CallOptions(undo=Undo("e", (Result(1),)))),
        Call(2, "c", "e", Method.GET, options=CallOptions(foreach=ForEach(Payload("list"), 3))),
        Wait(1_000, Compare(Comparison.LESS, Payload("n"), Literal(1))),
        Publish("a/b", Content(json=ObjectOf((("a", Item("x")), ("b", Base64(Result(1))))))),
        Reply(Content(raw=Result(1))),
        SubFlow(3, "8", Content((Payload(),)), "name"),
    ),
    order=Order.DATAFLOW,
    starts=StartSettings(("a/+",), 30_000, Cron("0 6 * * *", "Europe/Rome"), CatchUp.ALL),
    queueing=QueueSettings(4, 9, 1_000, "id", Rate(90, "min")),
    keeping=KeepSettings(Keep.HEAD),
)
ACCEPTED_WITH_ALL_FIELDS = Accepted(
    "9", flow_version(EVERY_STEP), msgspec.Raw(b"{}"), "flow", placed=True, key="k",
    budget_ms=5_000, origin="B:2", reply_topic="r", correlation=b"\xff\0", traceparent="00-1-2-01",
)  # fmt: skip
LATER = Moment("boot", 5_000, 1_700_000_000_000)
EVERY_FACT: tuple[AnyFact, ...] = (
    RequestStarted(1),
    Probed(1, ProbeVerdict.NOT_DONE, questions=2),
    Finished(1, 200, 0.5, msgspec.Raw(b'"one"')),
    WaitStarted(2, LATER),
    StepPassed(2),
    StepPassed(4, msgspec.Raw(b"[7]")),
    RequestStarted(2, 1, "2.1"),
    ElementFinished(2, 2, 200, 0.5, msgspec.Raw(b'"two"')),
    StepFailed(2, 1, "no", "2.3", LATER),
    StepFailed(2, 2, "no", "2.3", final=True),
    StepFailed(0, 1, "no", "@3", LATER),
    Finished(3, 0, 0, msgspec.Raw(b'{"any": "json"}')),
    Stopping(State.FAILED, "no"),
    StepUndone(3, 200, 0.5),
    RequestStarted(1, 1, "undo.1"),
)
