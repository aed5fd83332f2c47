"""Topics and filters (MQTT 5, 4.7), flows that a topic starts, and the subscription file."""

from __future__ import annotations

import pytest

from fractal_rm.adapters.mqtt.flow_topics import FlowTopics
from fractal_rm.adapters.mqtt.subscription_file import SubscriptionFile
from fractal_rm.config.model import Broker
from fractal_rm.domain.flow import Flow, StartSettings
from fractal_rm.domain.topic import (
    MAX_IDENTIFIER,
    covers,
    filter_fault,
    matches,
    name_fault,
    subscription_identifier,
)
from open_files import no_descriptor_free


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1"),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
        ("sport/#", "sport"),
        ("#", "sport/tennis"),
        ("#", "/"),
        ("sport/tennis/+", "sport/tennis/player1"),
        ("sport/+", "sport/"),
        ("+/+", "/finance"),
        ("/+", "/finance"),
        ("+/monitor/Clients", "x/monitor/Clients"),
        ("$SYS/#", "$SYS/broker/load"),
        ("$SYS/monitor/+", "$SYS/monitor/Clients"),
        ("+/tennis/#", "sport/tennis"),
        ("a b/ü", "a b/ü"),
        ("$share/nodes/factory/+/frame", "factory/1/frame"),
    ],
)
def test_a_filter_matches(topic_filter, topic):
    assert matches(topic_filter, topic)


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("sport/tennis/+", "sport/tennis/player1/ranking"),
        ("sport/+", "sport"),
        ("+", "/finance"),
        ("#", "$SYS/broker/load"),
        ("+/monitor/Clients", "$SYS/monitor/Clients"),
        ("$share/nodes/#", "$SYS/broker/load"),
        ("ACCOUNTS", "Accounts"),
        ("/finance", "finance"),
        ("sport/tennis/#", "sport"),
        ("a/b", "a/b/c"),
        ("a/b/c", "a/b"),
    ],
)
def test_a_filter_does_not_match(topic_filter, topic):
    assert not matches(topic_filter, topic)


INVALID_TOPICS = [("", "at least one"), ("ü" * 40_000, "80000"), ("\ud800", "surrogate"),
            ("a/" * 128 + "x", "129"), ("a\0", "U+0000"), ("a\tb", "U+0009"), ("a\x85", "U+0085"),
            ("\ufdd0", "U+FDD0"), ("a\uffff", "U+FFFF"), ("\U0001fffe", "U+1FFFE")]  # fmt: skip


@pytest.mark.parametrize(
    ("topic", "word"), [*INVALID_TOPICS, ("a/+", "is a wildcard"), ("#", "is a wildcard"),
                        ("ü" * 600, "1200")],
)  # fmt: skip
def test_an_invalid_topic_has_a_fault(topic, word):
    assert word in name_fault(topic).why


@pytest.mark.parametrize(
    ("topic_filter", "word"), [*INVALID_TOPICS, ("a#b", "#"), ("a/#/b", "#"),
                               ("a+", "one whole level"), ("$share", "no group"),
                               ("$share/g", "no group"), ("$share//x", "no group"),
                               ("$share/g/a#", "#")],
)  # fmt: skip
def test_an_invalid_filter_has_a_fault(topic_filter, word):
    assert word in filter_fault(topic_filter).why


def test_a_valid_topic_has_no_fault():
    for topic in ("a/b c/ü/$x", "\U0001f600", "/" * 127):
        assert name_fault(topic) is None
        assert filter_fault(topic) is None
    assert filter_fault("$share/g/+/a/#") is None


@pytest.mark.parametrize(
    ("wide", "narrow", "is_covered"),
    [("#", "a/+", True), ("a/#", "a", True), ("a/#", "a/#", True), ("+/b", "a/b", True),
     ("$share/g/a", "a", True), ("a/+", "a/+", True), ("a", "b", False), ("a/+", "a/#", False),
     ("a/+/#", "a/#", False), ("a/b", "a/+", False), ("#", "$SYS/#", False)],
)  # fmt: skip
def test_a_filter_covers_a_filter_that_matches_a_subset_of_its_topics(wide, narrow, is_covered):
    assert covers(wide, narrow) is is_covered


def test_a_subscription_identifier_depends_only_on_the_filter():
    numbers = {subscription_identifier(f"factory/{n}") for n in range(2_000)}
    assert len(numbers) == 2_000
    assert min(numbers) > 0
    assert max(numbers) <= MAX_IDENTIFIER
    assert subscription_identifier("a/b") == subscription_identifier("a/b")


def flow_topics(**filters):
    flows = {name: Flow(name, starts=StartSettings(topics=each)) for name, each in filters.items()}
    return FlowTopics(
        "own", {**flows, "seed": Flow("seed"), "clock": Flow("clock", starts=StartSettings())}
    )


def test_a_message_starts_every_flow_with_a_matching_filter():
    topics = flow_topics(a=("factory/+/frame",), b=("factory/#",), c=("other",))
    assert topics.flows_started_by("factory/1/frame", ()) == ["a", "b"]
    assert topics.flows_started_by("nobody", ()) == []
    assert topics.filters == {"factory/+/frame", "factory/#", "other"}


def test_a_flow_is_started_by_one_of_several_copies_of_a_message():
    topics = flow_topics(a=("x/+", "+/y"), b=("+/y",))
    first, second = subscription_identifier("x/+"), subscription_identifier("+/y")
    assert topics.flows_started_by("x/y", [first]) == ["a"]
    assert topics.flows_started_by("x/y", [second]) == ["b"]
    assert topics.flows_started_by("x/y", [first, second]) == ["a", "b"]


def test_a_copy_for_a_removed_subscription_starts_all_flows_that_match():
    topics = flow_topics(a=("x/+",))
    assert topics.flows_started_by("x/y", [subscription_identifier("#")]) == ["a"]


def test_a_copy_of_a_trigger_for_another_subscription_is_not_a_trigger():
    topics = flow_topics(a=("#",))
    trigger_id, other_id = subscription_identifier("own"), subscription_identifier("#")
    assert topics.is_trigger(())
    assert topics.is_trigger([trigger_id])
    assert topics.is_trigger([trigger_id, other_id])
    assert not topics.is_trigger([other_id])


def fail_if_called(path, reason):
    raise AssertionError(f"{path}: {reason}")


FIRST_BROKER, SECOND_BROKER = Broker("first"), Broker("second")


def test_the_file_keeps_the_filters_of_other_brokers(tmp_path):
    file = SubscriptionFile(tmp_path, "node", fail_if_called)
    file.write(FIRST_BROKER, frozenset({"a", "b"}))
    file.write(SECOND_BROKER, frozenset({"a"}))
    assert file.read() == {"a", "b"}
    file.write(FIRST_BROKER, frozenset({"a"}))
    assert file.read() == {"a"}
    for n in range(20):
        file.write(Broker(f"{n}"), frozenset({f"{n}"}))
    assert len(file.read()) == 16


def test_the_file_has_the_filters_of_each_client_id(tmp_path):
    file = SubscriptionFile(tmp_path, "node/1", fail_if_called)
    assert file.read() == frozenset()
    file.write(FIRST_BROKER, frozenset({"a/#", "own"}))
    assert SubscriptionFile(tmp_path, "node/1", fail_if_called).read() == {"a/#", "own"}
    assert SubscriptionFile(tmp_path, "node/2", fail_if_called).read() == frozenset()


def test_a_file_that_cannot_be_read_has_no_filters_and_is_reported(tmp_path):
    reported = []
    SubscriptionFile(tmp_path, "node", fail_if_called).write(FIRST_BROKER, frozenset({"a"}))
    path = next(tmp_path.iterdir())
    path.write_text("{")
    file = SubscriptionFile(tmp_path, "node", lambda path, reason: reported.append((path, reason)))
    assert file.read() == frozenset()
    assert [each for each, _ in reported] == [path]


def test_a_file_is_read_again_later_if_no_descriptor_is_free(tmp_path):
    SubscriptionFile(tmp_path, "node", fail_if_called).write(FIRST_BROKER, frozenset({"a"}))
    file = SubscriptionFile(tmp_path, "node", fail_if_called)
    with no_descriptor_free(), pytest.raises(OSError, match="Too many open files"):
        file.read()
    assert file.read() == {"a"}
    with no_descriptor_free():  # the file is not read again
        assert file.read() == {"a"}
        file.write(FIRST_BROKER, frozenset({"a"}))


def test_an_invalid_filter_in_the_file_is_ignored(tmp_path):
    file = SubscriptionFile(tmp_path, "node", fail_if_called)
    file.write(FIRST_BROKER, frozenset({"a/#", "", "b\0", "c" * 70_000}))
    assert SubscriptionFile(tmp_path, "node", fail_if_called).read() == {"a/#"}
