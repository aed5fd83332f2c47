"""What a node remembers about offers since it started."""

from __future__ import annotations

from itertools import count

from fractal_rm.engine.offer_memory import OfferMemory


def memory() -> OfferMemory:
    numbers = count(1)
    return OfferMemory(lambda: f"boot {next(numbers)}")


def test_an_accepted_offer_is_never_taken_for_a_new_one():
    offers = memory()
    for number in range(20_000):
        offers.accept(f"offer {number}")
    assert all(offers.may_have_accepted(f"offer {number}") for number in range(20_000))


def test_few_new_offers_are_taken_for_accepted_ones():
    offers = memory()
    for number in range(100_000):
        offers.accept(f"offer {number}")
    assert sum(offers.may_have_accepted(f"new {number}") for number in range(10_000)) < 500


def test_with_too_many_offers_the_node_takes_a_new_boot(monkeypatch):
    monkeypatch.setattr("fractal_rm.engine.offer_memory.MAX_ACCEPTED", 2)
    offers = memory()
    for number in range(3):
        offers.accept(f"offer {number}")
    assert offers.boot == "boot 2"
    assert not offers.may_have_accepted("offer 0")
    assert offers.may_have_accepted("offer 2")


def test_refusals_are_remembered_until_the_boot_changes(monkeypatch):
    monkeypatch.setattr("fractal_rm.engine.offer_memory.MAX_REFUSED", 1)
    offers = memory()
    offers.refuse("first")
    assert (offers.has_refused("first"), offers.boot) == (True, "boot 1")
    offers.refuse("second")
    assert (offers.has_refused("first"), offers.boot) == (False, "boot 2")
