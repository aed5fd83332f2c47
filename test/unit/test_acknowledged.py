"""Redelivered MQTT messages that were acknowledged on an earlier connection are recognized."""

from __future__ import annotations

from fractal_rm.adapters.mqtt.acknowledged import AcknowledgedMessages
from fractal_rm.adapters.mqtt.publish_packet import Message
from fractal_rm.domain.trigger import TriggerMetadata


def resume_session(acknowledged, *redelivered, mqtt_5=True):
    """Resume the session. Return a list that says whether each message was acknowledged before.

    An entry is True, False, or None if this is uncertain.
    """
    acknowledged.begin_resumed_session(mqtt_5=mqtt_5)
    return [acknowledged.was_acknowledged(*each, only_redelivered=True) for each in redelivered]


def add_batch(acknowledged, *batch):
    """Add pairs of a packet id and a message. Returns ``acknowledged``."""
    acknowledged.add(batch)
    return acknowledged


ONE, TWO = Message(b"1", retained=False), Message(b"2", retained=False)


def test_a_message_is_uncertain_if_the_broker_may_use_the_lowest_free_packet_id():
    acknowledged = add_batch(AcknowledgedMessages(10), (1, ONE))
    assert resume_session(acknowledged, (1, ONE)) == [None]
    acknowledged.note_first_new(1, position=1)
    assert resume_session(add_batch(acknowledged, (1, ONE)), (1, ONE)) == [None]
    acknowledged.note_first_new(2, position=1)
    assert resume_session(add_batch(acknowledged, (1, ONE)), (1, ONE), (1, TWO), (2, ONE)) == [
        True,
        False,
        False,
    ]


def test_a_message_that_may_have_had_another_packet_id_is_uncertain():
    acknowledged = add_batch(AcknowledgedMessages(10), (1, ONE))
    acknowledged.begin_resumed_session(mqtt_5=False)
    assert resume_session(add_batch(acknowledged, (1, ONE)), (2, ONE), (2, TWO), mqtt_5=False) == [
        None,
        False,
    ]


def test_a_message_redelivered_only_on_a_later_connection_is_uncertain():
    acknowledged = add_batch(AcknowledgedMessages(10), (11, ONE), (12, TWO))
    assert resume_session(acknowledged, (12, TWO)) == [True]
    add_batch(acknowledged, (12, TWO))  # acknowledged again
    assert resume_session(acknowledged, (11, ONE), (12, TWO), (11, TWO)) == [None, True, False]
    acknowledged.mark_incomplete()
    assert resume_session(acknowledged, (12, TWO)) == [None]


def test_a_packet_id_above_the_window_shows_that_packet_ids_increase():
    assert resume_session(add_batch(AcknowledgedMessages(10), (11, ONE)), (11, ONE)) == [True]
    mqtt_3 = AcknowledgedMessages(10)  # in MQTT 3.1.1 the broker does not know the window
    mqtt_3.begin_new_session(mqtt_5=False)
    assert resume_session(add_batch(mqtt_3, (11, ONE)), (11, ONE), mqtt_5=False) == [None]


def test_a_message_is_recognized_if_only_the_expiry_interval_differs():
    def with_metadata(**metadata):
        return Message(b"1", retained=False, metadata=TriggerMetadata(**metadata))

    acknowledged = AcknowledgedMessages(1)
    acknowledged.begin_resumed_session(mqtt_5=True)
    add_batch(acknowledged, (7, with_metadata(left_ms=9_000, reply_topic="a")))
    redelivered = (7, with_metadata(left_ms=8_000, reply_topic="a"))
    assert resume_session(
        acknowledged, redelivered, (7, with_metadata(left_ms=8_000, reply_topic="b"))
    ) == [
        True,
        False,
    ]


def test_the_messages_of_a_session_that_the_broker_has_lost_are_forgotten():
    acknowledged = add_batch(AcknowledgedMessages(1), (7, ONE))
    acknowledged.forget()
    assert resume_session(acknowledged, (7, ONE)) == [None]


def test_all_acknowledged_messages_are_known_if_this_process_began_the_session():
    acknowledged = AcknowledgedMessages(1)
    acknowledged.begin_new_session(mqtt_5=True)
    assert resume_session(add_batch(acknowledged, (7, ONE)), (7, ONE), (8, TWO)) == [True, False]


def test_only_messages_in_the_window_are_remembered_and_others_are_uncertain():
    acknowledged = AcknowledgedMessages(10)
    for packet_id in range(1, 31):
        add_batch(acknowledged, (packet_id, ONE))
    acknowledged.begin_resumed_session(mqtt_5=True)
    remembered = [
        n for n in range(1, 31) if acknowledged.was_acknowledged(n, ONE, only_redelivered=True)
    ]
    assert remembered == list(range(21, 31))
    large = Message(b"x" * 3_000_000, retained=False)
    add_batch(acknowledged, (31, large))
    add_batch(acknowledged, (32, large))
    assert resume_session(acknowledged, (31, large), (32, large)) == [None, True]
    assert resume_session(acknowledged, (31, large)) == [False]
