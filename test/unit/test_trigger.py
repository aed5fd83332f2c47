"""Triggers are decoded strictly, from MQTT and from REST."""

import contextlib
import importlib
import json
import pkgutil

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fractal_rm
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.handoff.messages import ReceivedOffer
from fractal_rm.domain.refusals import Malformed, Refused, TooLarge, WrongShape
from fractal_rm.domain.strict_json import MAX_DEPTH
from fractal_rm.domain.trigger import Arrival, TriggerSource, decode_trigger

MAX = 256 * 1024
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


def mqtt(body, **options):
    return decode_trigger(Arrival(TriggerSource.MQTT, body, **options), MAX)


def rest(body, **options):
    return decode_trigger(Arrival(TriggerSource.REST, body, **options), MAX)


@given(json_values)
def test_a_payload_is_stored_byte_for_byte(payload):
    text = json.dumps(payload)
    trigger = mqtt(f'{{"id_flow": "1", "payload": {text}}}'.encode())
    assert trigger.payload == text.encode()


@given(st.binary(max_size=300))
def test_any_bytes_are_accepted_or_refused(body):
    for source in TriggerSource:
        with contextlib.suppress(Refused):
            decode_trigger(Arrival(source, body), MAX)


@given(json_values)
def test_any_json_is_accepted_or_refused(value):
    for source in TriggerSource:
        with contextlib.suppress(Refused):
            decode_trigger(Arrival(source, json.dumps(value).encode()), MAX)


@pytest.mark.parametrize("id_flow", ['"7"', "7"])
def test_a_flow_may_be_named_by_a_string_or_a_number(id_flow):
    assert mqtt(f'{{"id_flow": {id_flow}, "payload": 1}}'.encode()).flow_id == "7"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"plain text",
        b"\xff\xfe",
        b"\x00\x01\x02",
        b'{"id_flow": "1", "payload": NaN}',
        b'{"id_flow": "1", "payload": Infinity}',
        b'{"id_flow": "1", "id_flow": "2", "payload": 1}',
        b'{"id_flow": "1", "payload": {"a": 1, "a": 2}}',
        b'{"id_flow": "1", "payload": 1} trailing',
        b'{"id_flow": "1", "payload": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"id_flow": "1", "payload": ' + b'{"a":' * 50_000,
    ],
)
def test_invalid_or_ambiguous_json_is_malformed(body):
    with pytest.raises(Malformed):
        mqtt(body)


def test_brackets_inside_strings_do_not_count_as_nesting():
    body = json.dumps({"id_flow": "1", "payload": "[" * 1000 + '\\"{' * 1000})
    assert mqtt(body.encode()).flow_id == "1"


def test_json_is_accepted_up_to_the_maximum_nesting():
    def nested(levels):
        return b'{"id_flow": "1", "payload": ' + b"[" * levels + b"]" * levels + b"}"

    assert mqtt(nested(MAX_DEPTH - 1))
    with pytest.raises(Malformed, match="nested deeper"):
        mqtt(nested(MAX_DEPTH))


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'"text"',
        b"null",
        b"{}",
        b'{"payload": 1}',
        b'{"id_flow": "1"}',
        b'{"id_flow": null, "payload": 1}',
        b'{"id_flow": true, "payload": 1}',
        b'{"id_flow": 1.5, "payload": 1}',
        b'{"id_flow": ["1"], "payload": 1}',
        b'{"id_flow": "1", "payload": 1, "id": 5}',
        b'{"id_flow": "1", "payload": 1, "id": ""}',
        b'{"id_flow": "1", "payload": 1, "id": "a\\nb"}',
    ],
)
def test_json_of_a_wrong_shape_is_refused(body):
    with pytest.raises(WrongShape):
        mqtt(body)


def test_extra_keys_are_ignored():
    assert mqtt(b'{"id_flow": "1", "payload": 1, "extra": {"deep": []}}').flow_id == "1"


def test_a_message_over_the_maximum_size_is_too_large():
    with pytest.raises(TooLarge):
        decode_trigger(Arrival(TriggerSource.MQTT, b"\xff" * 11), 10)


@pytest.mark.parametrize("value", ['"false"', "0", "1", "null", '"true"'])
def test_over_rest_only_a_boolean_is_accepted_for_is_load_balancing(value):
    with pytest.raises(WrongShape):
        rest(f'{{"id_flow": "1", "payload": 1, "is_load_balancing": {value}}}'.encode())


def test_over_rest_all_three_keys_are_required():
    with pytest.raises(WrongShape, match="is_load_balancing"):
        rest(b'{"id_flow": "1", "payload": 1}')


def test_over_mqtt_the_load_balancer_is_always_asked():
    assert not mqtt(b'{"id_flow": "1", "payload": 1, "is_load_balancing": true}').placed


def test_over_rest_a_trigger_with_the_keys_of_an_offer_is_a_hand_off():
    body = b"""{"id_flow": "1", "payload": 1, "is_load_balancing": true,
                "run": "01M87NTQZMXFEQPS51973PM0F5", "epoch": 2, "sender": "a"}"""
    assert rest(body).offer == ReceivedOffer("01M87NTQZMXFEQPS51973PM0F5", 2, "a")
    assert mqtt(body).offer is None


@pytest.mark.parametrize(
    "offer_keys",
    [
        '"run": 5, "epoch": 1',
        '"run": "01M87NTQZMXFEQPS51973PM0F5", "epoch": "1"',
        '"run": "01M87NTQZMXFEQPS51973PM0F5"',
        '"run": "01M87NTQZMXFEQPS51973PM0F5", "epoch": 0',
        '"run": "nightly", "epoch": 1',
        '"run": "01M87NTQZMXFEQPS51973PM0F5\\r\\nX: y", "epoch": 1',
    ],
)
def test_invalid_keys_of_an_offer_are_ignored(offer_keys):
    body = f'{{"id_flow": "1", "payload": 1, "is_load_balancing": true, {offer_keys}}}'
    assert rest(body.encode()).offer is None


@given(st.text(max_size=20).map(lambda text: json.dumps(text).encode()))
def test_msgspec_and_json_decode_an_accepted_payload_to_the_same_value(payload):
    message = b'{"id_flow": "1", "is_load_balancing": true, "payload": %b}' % payload
    for trigger in (rest(message), rest(payload, flow_id="1")):
        assert msgspec.json.decode(trigger.payload) == json.loads(payload)


def test_half_of_a_surrogate_pair_is_malformed():
    with pytest.raises(Malformed):
        rest(b'"\\ud800"', flow_id="1")


def test_if_the_url_names_the_flow_the_body_is_the_payload():
    trigger = rest(b'{"any": [1]}', flow_id="3", key="k")
    assert (trigger.flow_id, trigger.payload, trigger.key) == ("3", b'{"any": [1]}', "k")


def test_only_equal_content_has_an_equal_digest():
    one = mqtt(b'{"id_flow": "1", "payload": 1}')
    again = mqtt(b'{"payload": 1, "id_flow": 1}')
    other = mqtt(b'{"id_flow": "11", "payload": 1}')
    assert one.digest() == again.digest() != other.digest()


def test_every_error_class_has_its_own_code():
    for module in pkgutil.walk_packages(fractal_rm.__path__, "fractal_rm."):
        importlib.import_module(module.name)

    def with_subclasses(kind):
        return [kind, *(c for sub in kind.__subclasses__() for c in with_subclasses(sub))]

    codes = [kind.code for kind in with_subclasses(FractalError)]
    assert len(codes) == len(set(codes))


def test_the_payload_of_a_trigger_can_be_decoded():
    assert msgspec.json.decode(mqtt(b'{"id_flow":"1","payload":[1, 2]}').payload) == [1, 2]
