"""Limits for the rate of requests, for each machine."""

from __future__ import annotations

from fractal_rm.domain.address import read_address
from fractal_rm.domain.rate_limit import MAX_MACHINES, RateLimit, machine_of


def taken(limit: RateLimit, machine: str, now_s: float, requests: int) -> int:
    """How many of these requests are within the limit."""
    return sum(limit.take(machine, now_s) for _ in range(requests))


def test_a_silent_machine_may_send_a_burst_and_then_the_rate():
    limit = RateLimit(rate=10, burst=50)
    assert taken(limit, "a", 100.0, 80) == 50
    assert taken(limit, "a", 100.05, 80) == 0
    assert taken(limit, "a", 101.0, 80) == 10
    assert taken(limit, "a", 200.0, 80) == 50


def test_a_machine_at_its_rate_is_never_refused():
    limit = RateLimit(rate=10, burst=1)
    assert all(limit.take("a", 100 + second / 10) for second in range(1_000))


def test_a_machine_above_its_limit_does_not_affect_another_one():
    limit = RateLimit(rate=10, burst=50)
    taken(limit, "a", 0.0, 1_000)
    assert taken(limit, "b", 0.0, 80) == 50


def test_machines_above_the_maximum_number_share_a_limit_until_others_are_silent():
    limit = RateLimit(rate=10, burst=50)
    for number in range(MAX_MACHINES):
        assert limit.take(str(number), 0.0)
    assert taken(limit, "x", 0.0, 30) + taken(limit, "y", 0.0, 30) == 50
    assert taken(limit, "x", 10.0, 80) == 50
    assert taken(limit, "y", 10.0, 80) == 50


def test_an_ipv6_machine_cannot_avoid_its_limit_with_another_address_of_its_network():
    first, same, other = (
        machine_of(read_address(text))
        for text in ("2001:db8::1", "2001:db8::ffff:1", "2001:db9::1")
    )
    assert first == same != other
    assert machine_of(read_address("10.0.0.1")) != machine_of(read_address("10.0.0.2"))
