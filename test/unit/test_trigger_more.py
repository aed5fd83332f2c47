"""Optional parts of a trigger: time limits, reply topics, traces, CloudEvents."""

from __future__ import annotations

import json

import pytest

from fractal_rm.domain.refusals import Malformed, Refused, WrongContentType, WrongShape
from fractal_rm.domain.trigger import Arrival, TriggerMetadata, TriggerSource, decode_trigger

MAX = 256 * 1024
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
EVENT = {"specversion": "1.0", "id": "7", "source": "/line/1", "type": "frame.taken"}
EVENT_TYPE = "application/cloudevents+json"


def decode(body, source=TriggerSource.MQTT, metadata=None, **options):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode_trigger(Arrival(source, raw, metadata=metadata, **options), MAX)


def message(**keys):
    return {"id_flow": "1", "payload": "p", "is_load_balancing": False, **keys}


# --- time ------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [TriggerSource.MQTT, TriggerSource.REST])
def test_deadline_ms_is_read_as_the_time_budget(source):
    assert decode(message(deadline_ms=1500), source).budget_ms == 1500
    assert decode(message(), source).budget_ms is None


@pytest.mark.parametrize("value", [0, -1, 1.5, "5", None, True, 2**60, [1]])
def test_a_deadline_that_is_not_a_positive_whole_number_is_refused(value):
    with pytest.raises(WrongShape, match="deadline_ms must be a positive whole number"):
        decode(message(deadline_ms=value))


def test_the_budget_is_the_shorter_of_two_time_limits():
    assert decode(message(deadline_ms=1500), metadata=TriggerMetadata(left_ms=900)).budget_ms == 900
    assert decode(message(deadline_ms=500), metadata=TriggerMetadata(left_ms=900)).budget_ms == 500
    assert decode(message(), metadata=TriggerMetadata(left_ms=900)).budget_ms == 900


def test_waiting_time_reduces_the_budget_to_at_least_1_ms():
    assert decode(message(deadline_ms=1500), waited_ms=600).budget_ms == 900
    assert decode(message(), metadata=TriggerMetadata(left_ms=500), waited_ms=600).budget_ms == 1


# --- replies and traces ----------------------------------------------------------------------


def test_a_trigger_has_the_response_topic_and_the_correlation_data_of_its_message():
    trigger = decode(
        message(), metadata=TriggerMetadata(reply_topic="answers/7", correlation=b"\x00\xff")
    )
    assert (trigger.reply_topic, trigger.correlation) == ("answers/7", b"\x00\xff")
    assert decode(message(), metadata=TriggerMetadata(correlation=b"1")).correlation is None


@pytest.mark.parametrize(
    "topic", ["", "a/#", "a/+/b", "x" * 1_001, "a/" * 300, "$SYS/a", "$share/g/a", "a\uffff"]
)
def test_an_invalid_response_topic_is_refused(topic):
    with pytest.raises(WrongShape, match="response topic"):
        decode(message(), metadata=TriggerMetadata(reply_topic=topic))


def test_correlation_data_has_a_maximum_length():
    with pytest.raises(WrongShape, match="correlation data may have at most 4096"):
        decode(message(), metadata=TriggerMetadata(reply_topic="a", correlation=b"x" * 5_000))


@pytest.mark.parametrize(
    ("header", "read"), [(TRACE, TRACE), ("nonsense", None), (TRACE + "\r\nX: y", None), ("", None)]
)
def test_an_invalid_traceparent_is_ignored(header, read):
    assert decode(message(), metadata=TriggerMetadata(traceparent=header)).traceparent == read


# --- ON: messages on the topic of a flow --------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (b'{"a": 1}', b'{"a": 1}'),
        (b" 3.5 ", b"3.5"),
        (b"on", b'"on"'),
        (b"", b'""'),
        ('la "ü"\n'.encode(), '"la \\"ü\\"\\n"'.encode()),
        (b'{"a": NaN}', b'"{\\"a\\": NaN}"'),
        (b'"\\ud800"', b'"\\"\\\\ud800\\""'),
    ],
)
def test_a_message_on_a_topic_is_json_or_text(body, payload):
    assert decode(body, flow_id="4").payload == payload


def test_bytes_that_are_not_text_cannot_be_a_payload():
    with pytest.raises(Malformed, match="UTF-8"):
        decode(b"\xff\xd8", flow_id="4")


def test_the_same_id_on_a_topic_is_a_different_trigger_for_each_flow():
    first, second = (decode(b"1", flow_id=flow, key="k").dedup_key for flow in "45")
    assert first != second
    assert decode(b"1", flow_id="4", key="k").key == "k"


# --- CloudEvents -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "metadata"),
    [(TriggerSource.MQTT, None), (TriggerSource.MQTT, TriggerMetadata(content_type=EVENT_TYPE)),
     (TriggerSource.REST, TriggerMetadata(content_type=EVENT_TYPE + "; charset=utf-8"))],
)  # fmt: skip
def test_the_data_of_an_event_is_the_trigger(source, metadata):
    trigger = decode({**EVENT, "data": message(deadline_ms=9)}, source, metadata)
    assert (trigger.flow_id, trigger.payload, trigger.budget_ms) == ("1", b'"p"', 9)
    assert (trigger.key, trigger.dedup_key) == ("/line/1 7", "\0event:/line/1 7")


def test_the_source_and_id_of_an_event_replace_other_trigger_ids():
    metadata = TriggerMetadata(content_type=EVENT_TYPE)
    trigger = decode(
        {**EVENT, "data": message(id="other")}, TriggerSource.REST, metadata, key="third"
    )
    assert trigger.key == "/line/1 7"


@pytest.mark.parametrize("metadata", [None, TriggerMetadata(content_type=EVENT_TYPE)])
def test_on_a_topic_the_data_of_an_event_is_the_payload(metadata):
    trigger = decode(
        {**EVENT, "data": {"b": 2}, "traceparent": TRACE}, metadata=metadata, flow_id="4"
    )
    assert (trigger.flow_id, trigger.payload) == ("4", b'{"b": 2}')
    assert (trigger.dedup_key, trigger.traceparent) == ("\0topic:4:/line/1 7", TRACE)


def test_a_body_at_the_url_of_a_flow_is_an_event_only_with_the_content_type_of_events():
    body = {**EVENT, "data": 1}
    metadata = TriggerMetadata(content_type=EVENT_TYPE)
    assert decode(body, TriggerSource.REST, metadata, flow_id="4").payload == b"1"
    assert json.loads(decode(body, TriggerSource.REST, flow_id="4").payload) == body


def test_an_event_without_data_has_the_payload_null():
    assert decode(EVENT, flow_id="4").payload == b"null"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"specversion": "0.3"}, '"specversion": "1.0"'),
        ({"id": ""}, "needs id"),
        ({"id": 7}, "needs id"),
        ({"source": None}, "needs source"),
        ({"type": None}, "needs type"),
        ({"data_base64": "AA=="}, "not data_base64"),
        ({"source": "s" * 1_000}, "at most 1000"),
        ({"id": "a\nb"}, "printable"),
        ({"data": {"payload": 1}}, "the key id_flow is missing"),
        ({}, "no data"),
    ],
)
def test_an_invalid_event_is_refused_with_a_reason(change, words):
    metadata = TriggerMetadata(content_type=EVENT_TYPE)
    with pytest.raises(WrongShape, match=words.replace("(", r"\(")):
        decode({**EVENT, **change}, TriggerSource.REST, metadata)


def test_an_event_that_is_not_a_json_object_is_refused():
    with pytest.raises(WrongShape, match="object"):
        decode([1], metadata=TriggerMetadata(content_type=EVENT_TYPE))


def test_a_batch_of_events_is_refused():
    with pytest.raises(WrongContentType, match="one event in a message"):
        decode([EVENT], metadata=TriggerMetadata(content_type="application/cloudevents-batch+json"))


def test_json_that_only_resembles_an_event_is_an_ordinary_message():
    body = {"specversion": "1.0", "id": "7"}
    assert json.loads(decode(body, flow_id="4").payload) == body
    with pytest.raises(Refused, match="id_flow is missing"):
        decode(body)


# --- schedules -------------------------------------------------------------------------------


def test_a_scheduled_trigger_is_identified_by_its_flow_and_its_time():
    trigger = decode(b'{"at": "x"}', TriggerSource.SCHEDULE, flow_id="4", key="1800")
    assert (trigger.key, trigger.dedup_key) == ("1800", "\0schedule:4:1800")


# --- a byte order mark --------------------------------------------------------------------------

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("source", [TriggerSource.MQTT, TriggerSource.REST])
def test_a_byte_order_mark_before_a_message_is_ignored(source):
    body = json.dumps(message()).encode()
    assert decode(BYTE_ORDER_MARK + body, source) == decode(body, source)
    event = json.dumps({**EVENT, "data": message()}).encode()
    assert decode(BYTE_ORDER_MARK + event) == decode(event)


@pytest.mark.parametrize("source", [TriggerSource.MQTT, TriggerSource.REST])
@pytest.mark.parametrize("body", [b'{"a": 1}', json.dumps({**EVENT, "data": [7]}).encode()])
def test_a_byte_order_mark_before_a_payload_is_ignored(source, body):
    assert decode(BYTE_ORDER_MARK + body, source, flow_id="7") == decode(body, source, flow_id="7")


def test_a_text_on_the_topic_of_a_flow_keeps_its_byte_order_mark():
    assert json.loads(decode(BYTE_ORDER_MARK + b"a;b", flow_id="7").payload) == "\ufeffa;b"


@pytest.mark.parametrize(
    "body",
    [BYTE_ORDER_MARK, BYTE_ORDER_MARK + BYTE_ORDER_MARK + b"{}", b" " + BYTE_ORDER_MARK + b"{}"],
)
def test_a_byte_order_mark_in_another_place_is_malformed(body):
    with pytest.raises(Malformed):
        decode(body)
