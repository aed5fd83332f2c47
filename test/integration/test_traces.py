"""Traces: a receiver of OTLP gets the spans of a run, over attempts, undos and hand-offs."""

from __future__ import annotations

import asyncio

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from engine_stage import Stage, flows, peer, until
from fractal_rm.adapters.traces.export import MAX_QUEUED, Traces
from fractal_rm.adapters.traces.spans import Kind, Span
from fractal_rm.config.model import Traces as Settings
from fractal_rm.domain.call_errors import CallTimedOut
from fractal_rm.domain.state import State
from fractal_rm.domain.trace import parse_traceparent
from fractal_rm.domain.trigger import Arrival, TriggerMetadata, TriggerSource
from nodes import wait_until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
ALL, NONE = Settings("http://127.0.0.1:1", 1.0), Settings("http://127.0.0.1:1", 0.0)
RETRIED = """\
1
TO a 1
POST payload
  RETRY 2 EVERY 10ms
  UNDO 2 payload
TO b 1
GET
"""
PARENT_FLOW = """\
1
RUN 2

2
TO b 1
GET
"""


class MemorySender:
    """Keeps the spans, or refuses them while ``refuses`` is true."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.refuses = False

    def send(self, spans):
        if self.refuses:
            return False
        self.spans += spans
        return True

    def close(self):
        pass


def traces_of(stage: Stage, sender: MemorySender) -> Traces:
    """Begin to collect the traces of a stage."""
    dependencies = stage.dependencies
    traces = Traces(
        sender,
        lambda: dependencies.config,
        dependencies.telemetry,
        asyncio.get_running_loop().call_soon_threadsafe,
        dependencies.config.traces.sample,
    )
    dependencies.observers.add(traces)
    return traces


async def run_traced(stage: Stage, flow: str, header: str | None = None):
    """Run a flow by a message with this traceparent. Returns the outcome."""
    body = msgspec.json.encode({"id_flow": flow, "payload": 1})
    metadata = None if header is None else TriggerMetadata(traceparent=header)
    answer = await stage.node.receive(Arrival(TriggerSource.MQTT, body, metadata=metadata))
    return await stage.wait_for_outcome(answer.run)


def sent_headers(stage: Stage) -> list[str | None]:
    """The traceparent of each call of a stage, in order."""
    return [request.headers.get("traceparent") for request in stage.components.requests]


def tick(stage: Stage, name: str, *errors: Exception) -> None:
    """Let each call of an endpoint take 2 ms. The first calls raise ``errors``."""
    answer, remaining = stage.components.answers[f"http://127.0.0.1:6000/{name}"], list(errors)

    async def answer_later(request):
        stage.clock.ms += 2
        if remaining:
            raise remaining.pop(0)
        return await answer(request)

    stage.components.answers[f"http://127.0.0.1:6000/{name}"] = answer_later


async def test_each_attempt_is_a_span_and_its_request_names_this_span():
    async with Stage(balancer=None, flows=flows(RETRIED), traces=ALL) as stage:
        sender = MemorySender()
        traces = traces_of(stage, sender)
        tick(stage, "a/1", CallTimedOut("too slow", sent=True))
        tick(stage, "b/1")
        assert (await run_traced(stage, "1", SAMPLED)).state is State.SUCCEEDED
        await traces.close()
    run, place, *calls = sender.spans
    assert (run.name, run.kind, run.trace, run.parent) == (
        "process component_msg", Kind.CONSUMER, TRACE, PARENT
    )  # fmt: skip
    assert (place.name, place.parent) == ("place", run.id)
    assert [call.name for call in calls] == ["POST a", "POST a", "GET b"]
    assert [call.error for call in calls] == ["timed-out", "", ""]
    assert [call.attributes.get("http.request.resend_count") for call in calls] == [None, 1, None]
    assert {call.parent for call in calls} == {run.id}
    headers = [parse_traceparent(header) for header in sent_headers(stage)]
    assert [(header.trace, header.span) for header in headers] == [
        (TRACE, call.id) for call in calls
    ]
    assert len({span.id for span in sender.spans}) == 5


async def test_the_undo_of_a_step_is_a_span():
    async with Stage(balancer=None, flows=flows(RETRIED), traces=NONE) as stage:
        sender = MemorySender()
        traces = traces_of(stage, sender)
        tick(stage, "a/1")
        tick(stage, "a/2")
        stage.set_answer("b/1", "no", status=400)
        assert (await run_traced(stage, "1")).state is State.FAILED
        await traces.close()
    run, *_, undo = sender.spans  # a failed run is exported although no trace is sampled
    assert run.error == "status"
    assert undo.attributes["fractal.undo"] is True
    assert undo.attributes["http.response.status_code"] == 200
    assert sent_headers(stage)[-1] == f"00-{run.trace}-{undo.id}-00"


async def test_a_run_that_succeeds_is_exported_only_if_its_sender_or_the_share_says_so():
    async with Stage(balancer=None, traces=NONE) as stage:
        sender = MemorySender()
        traces = traces_of(stage, sender)
        await run_traced(stage, "2")
        await run_traced(stage, "2", UNSAMPLED)
        await run_traced(stage, "2", SAMPLED)
        await traces.close()
    assert [span.trace for span in sender.spans if span.kind is Kind.CONSUMER] == [TRACE]


async def test_the_run_of_a_run_step_is_a_child_of_the_step():
    async with Stage(balancer=None, flows=flows(PARENT_FLOW), traces=ALL) as stage:
        sender = MemorySender()
        traces = traces_of(stage, sender)
        await run_traced(stage, "1")
        await traces.close()
    assert len({span.trace for span in sender.spans}) == 1
    step = next(span for span in sender.spans if span.attributes.get("fractal.step") == 1
                and span.kind is Kind.INTERNAL)  # fmt: skip
    child = next(span for span in sender.spans if span.attributes.get("fractal.flow.id") == "2")
    assert child.parent == step.id


async def test_an_offer_is_a_span_and_its_request_names_this_span():
    async with Stage(traces=ALL) as stage:
        sender = MemorySender()
        traces = traces_of(stage, sender)
        stage.balancer.answer = "3"
        stage.peers.answer_offer = peer("receipt")
        await run_traced(stage, "1", SAMPLED)
        await traces.close()
    offer = next(span for span in sender.spans if span.kind is Kind.PRODUCER)
    assert (offer.name, offer.error) == ("offer 3", "")
    assert stage.peers.sent[0].traceparent == f"00-{TRACE}-{offer.id}-01"


async def test_without_configuration_the_header_of_the_trigger_is_passed_on_and_none_is_made():
    async with Stage(balancer=None) as stage:
        await run_traced(stage, "2", SAMPLED)
        await run_traced(stage, "2")
    assert sent_headers(stage) == [SAMPLED, None]


async def test_while_the_receiver_refuses_traces_they_are_counted_and_reported_once():
    async with Stage(balancer=None, traces=ALL) as stage:
        sender = MemorySender()
        sender.refuses = True
        traces = traces_of(stage, sender)
        for number in range(1, 4):
            await run_traced(stage, "2")
            await until(lambda number=number: traces.dropped == number)
        sender.refuses = False
        await run_traced(stage, "2")
        await until(lambda: traces.exported == 1)
        await until(lambda: "traces_exported_again" in stage.telemetry.events)
        await traces.close()
    assert stage.telemetry.events.count("traces_not_exported") == 1


async def test_a_full_queue_drops_traces_and_delays_no_run():
    async with Stage(balancer=None, traces=ALL) as stage:
        import threading

        class Hanging(MemorySender):
            def send(self, spans):
                release.wait()
                return super().send(spans)

        release, sender = threading.Event(), Hanging()
        traces = traces_of(stage, sender)
        for _ in range(MAX_QUEUED + 100):
            await run_traced(stage, "2")
        assert traces.dropped
        release.set()
        await traces.close()
        assert traces.dropped + traces.exported == MAX_QUEUED + 100


def test_a_receiver_of_otlp_gets_one_trace_of_a_run_that_is_handed_off(make, components):
    receiver, sending_node = make("receiver"), make("sender", balancer=components.port)
    requests = []

    def take(request, body):
        requests.append(ExportTraceServiceRequest.FromString(body))
        return 200, ""

    components.answers["/v1/traces"] = take
    components.answers["/LB/id_node"] = (200, '{"id_node": 2}')
    for node, node_id in ((receiver, "2"), (sending_node, "1")):
        endpoint = f"http://127.0.0.1:{components.port}/v1/traces"
        node.edit("comm", traces__endpoint=endpoint, traces__sample=0, node__id=node_id)
    receiver.start()
    sending_node.add_peer(receiver)
    sending_node.start()
    answer = sending_node.outcome("1", traceparent=SAMPLED)
    wait_until(lambda: receiver.history.run(answer["run"]))
    wait_until(lambda: receiver.history.run(answer["run"]).summary.state is State.SUCCEEDED)
    assert sending_node.stop() == 0
    assert receiver.stop() == 0
    spans, services = {}, set()
    for request in requests:
        for resource in request.resource_spans:
            services |= {a.value.string_value for a in resource.resource.attributes
                         if a.key == "service.instance.id"}  # fmt: skip
            for scope in resource.scope_spans:
                assert scope.schema_url or scope.scope.name == "fractal_rm"
                spans |= {span.span_id.hex(): span for span in scope.spans}
    assert services == {"1", "2"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    server = next(span for span in spans.values() if span.name == "POST")
    assert server.parent_span_id.hex() == PARENT
    offer = next(span for span in spans.values() if span.name == "offer 2")
    assert offer.parent_span_id == server.span_id
    consumer = next(span for span in spans.values() if span.name == "process hand-off")
    assert consumer.parent_span_id == offer.span_id
    calls = [span for span in spans.values() if span.name.startswith("POST component")]
    assert len(calls) == 3
    assert {span.parent_span_id for span in calls} == {consumer.span_id}
    for span in spans.values():
        assert span.start_time_unix_nano <= span.end_time_unix_nano
