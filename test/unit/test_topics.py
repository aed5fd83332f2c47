"""Topics and filters by the rules of MQTT 5, 4.7, and which copy of a message starts a flow."""

from __future__ import annotations

import pytest

from fractal_rm.adapters.mqtt.topics import KeptTopics, Topics
from fractal_rm.config.model import Broker
from fractal_rm.domain.flow import Flow, Starts
from fractal_rm.domain.topic import (
    LARGEST_IDENTIFIER,
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


NO_TOPIC = [("", "at least one"), ("ü" * 40_000, "80000"), ("\ud800", "surrogate"),
            ("a/" * 128 + "x", "129"), ("a\0", "U+0000"), ("a\tb", "U+0009"), ("a\x85", "U+0085"),
            ("\ufdd0", "U+FDD0"), ("a\uffff", "U+FFFF"), ("\U0001fffe", "U+1FFFE")]  # fmt: skip


@pytest.mark.parametrize(
    ("topic", "word"), [*NO_TOPIC, ("a/+", "stands for many"), ("#", "stands for many"),
                        ("ü" * 600, "1200")],
)  # fmt: skip
def test_a_topic_that_nothing_can_be_published_on_is_said_to_be_none(topic, word):
    assert word in name_fault(topic).why


@pytest.mark.parametrize(
    ("topic_filter", "word"), [*NO_TOPIC, ("a#b", "#"), ("a/#/b", "#"), ("a+", "one whole level"),
                               ("$share", "no group"), ("$share/g", "no group"),
                               ("$share//x", "no group"), ("$share/g/a#", "#")],
)  # fmt: skip
def test_a_filter_that_nothing_can_be_subscribed_to_by_is_said_to_be_none(topic_filter, word):
    assert word in filter_fault(topic_filter).why


def test_any_other_topic_has_no_fault():
    for topic in ("a/b c/ü/$x", "\U0001f600", "/" * 127):
        assert name_fault(topic) is None
        assert filter_fault(topic) is None
    assert filter_fault("$share/g/+/a/#") is None


@pytest.mark.parametrize(
    ("wide", "narrow", "whether"),
    [("#", "a/+", True), ("a/#", "a", True), ("a/#", "a/#", True), ("+/b", "a/b", True),
     ("$share/g/a", "a", True), ("a/+", "a/+", True), ("a", "b", False), ("a/+", "a/#", False),
     ("a/+/#", "a/#", False), ("a/b", "a/+", False), ("#", "$SYS/#", False)],
)  # fmt: skip
def test_a_filter_covers_another_one_that_matches_no_more(wide, narrow, whether):
    assert covers(wide, narrow) is whether


def test_the_number_of_a_subscription_follows_from_its_filter_alone():
    numbers = {subscription_identifier(f"factory/{n}") for n in range(2_000)}
    assert len(numbers) == 2_000
    assert min(numbers) > 0
    assert max(numbers) <= LARGEST_IDENTIFIER
    assert subscription_identifier("a/b") == subscription_identifier("a/b")


def topics(**filters):
    flows = {name: Flow(name, starts=Starts(topics=asked)) for name, asked in filters.items()}
    return Topics("own", {**flows, "seed": Flow("seed"), "clock": Flow("clock", starts=Starts())})


def test_a_message_starts_every_flow_that_asks_for_it():
    found = topics(a=("factory/+/frame",), b=("factory/#",), c=("other",))
    assert found.begun_by("factory/1/frame", ()) == ["a", "b"]
    assert found.begun_by("nobody", ()) == []
    assert found.filters == {"factory/+/frame", "factory/#", "other"}


def test_of_several_copies_of_a_message_one_starts_a_flow():
    found = topics(a=("x/+", "+/y"), b=("+/y",))
    first, second = subscription_identifier("x/+"), subscription_identifier("+/y")
    assert found.begun_by("x/y", [first]) == ["a"]
    assert found.begun_by("x/y", [second]) == ["b"]
    assert found.begun_by("x/y", [first, second]) == ["a", "b"]


def test_a_copy_for_a_subscription_that_is_gone_starts_all_that_match():
    found = topics(a=("x/+",))
    assert found.begun_by("x/y", [subscription_identifier("#")]) == ["a"]


def test_a_copy_of_a_trigger_for_another_subscription_is_no_trigger():
    found = topics(a=("#",))
    own, other = subscription_identifier("own"), subscription_identifier("#")
    assert found.for_triggers(())
    assert found.for_triggers([own])
    assert found.for_triggers([own, other])
    assert not found.for_triggers([other])


def not_told(path, reason):
    raise AssertionError(f"{path}: {reason}")


HERE, THERE = Broker("here"), Broker("there")


def test_what_was_subscribed_at_another_broker_is_still_to_be_taken_back(tmp_path):
    kept = KeptTopics(tmp_path, "node", not_told)
    kept.write(HERE, frozenset({"a", "b"}))
    kept.write(THERE, frozenset({"a"}))
    assert kept.read() == {"a", "b"}
    kept.write(HERE, frozenset({"a"}))
    assert kept.read() == {"a"}
    for n in range(20):
        kept.write(Broker(f"{n}"), frozenset({f"{n}"}))
    assert len(kept.read()) == 16


def test_what_was_subscribed_is_kept_for_each_client_id(tmp_path):
    kept = KeptTopics(tmp_path, "node/1", not_told)
    assert kept.read() == frozenset()
    kept.write(HERE, frozenset({"a/#", "own"}))
    assert KeptTopics(tmp_path, "node/1", not_told).read() == {"a/#", "own"}
    assert KeptTopics(tmp_path, "node/2", not_told).read() == frozenset()


def test_a_file_that_cannot_be_read_knows_of_none(tmp_path):
    told = []
    KeptTopics(tmp_path, "node", not_told).write(HERE, frozenset({"a"}))
    file = next(tmp_path.iterdir())
    file.write_text("{")
    kept = KeptTopics(tmp_path, "node", lambda path, why: told.append((path, why)))
    assert kept.read() == frozenset()
    assert [path for path, _ in told] == [file]


def test_a_file_for_which_no_descriptor_is_free_is_not_taken_for_one_that_knows_of_none(tmp_path):
    KeptTopics(tmp_path, "node", not_told).write(HERE, frozenset({"a"}))
    kept = KeptTopics(tmp_path, "node", not_told)
    with no_descriptor_free(), pytest.raises(OSError, match="Too many open files"):
        kept.read()
    assert kept.read() == {"a"}
    with no_descriptor_free():  # it is known now
        assert kept.read() == {"a"}
        kept.write(HERE, frozenset({"a"}))


def test_what_is_no_filter_is_not_asked_of_a_broker(tmp_path):
    kept = KeptTopics(tmp_path, "node", not_told)
    kept.write(HERE, frozenset({"a/#", "", "b\0", "c" * 70_000}))
    assert KeptTopics(tmp_path, "node", not_told).read() == {"a/#"}
