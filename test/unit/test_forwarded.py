"""The client of a request that proxies have forwarded: X-Forwarded-For and Forwarded (RFC 7239)."""

from __future__ import annotations

import pytest

from fractal_rm.domain.address import is_within, read_network
from fractal_rm.domain.forwarded import forwarded_client

PROXIES = tuple(map(read_network, ("127.0.0.1", "::1", "10.0.0.0/24")))


def client_of(forwarded=(), forwarded_for=()) -> str:
    values = ([each.encode("latin-1") for each in header] for header in (forwarded, forwarded_for))
    return str(forwarded_client(*values, lambda address: is_within(address, PROXIES)))


@pytest.mark.parametrize(
    ("entries", "client"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        ([" 192.0.2.7\t"], "192.0.2.7"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["2001:db8::7"], "2001:db8::7"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["[2001:db8::7]:4711"], "2001:db8::7"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.0.0.3"], "192.0.2.7"),
        (["192.0.2.7", "10.0.0.3"], "192.0.2.7"),
        (["192.0.2.7", "10.0.0.3, 127.0.0.1"], "192.0.2.7"),
        # A client can forge all entries before the one that the first trusted proxy adds.
        (["10.1.0.2, 192.0.2.7"], "192.0.2.7"),
        (["10.1.0.2", "192.0.2.7, 10.0.0.3"], "192.0.2.7"),
        (["127.0.0.1, 192.0.2.7"], "192.0.2.7"),
        # Only proxies: the one that is farthest away.
        (["10.0.0.9, 127.0.0.1"], "10.0.0.9"),
    ],
)
def test_the_client_is_the_last_address_that_is_not_a_trusted_proxy(entries, client):
    assert client_of(forwarded_for=entries) == client


@pytest.mark.parametrize(
    "entry",
    [
        "unknown", "_hidden", "", "192.0.2.7,", "192.0.2.7, unknown", "10.1.0.2, unknown, 10.0.0.3",
        "192.0.2.300", "192.0.2.7:port", "192.0.2.7:4711111", "[2001:db8::7", "2001:db8::7%eth0",
        "[fe80::1%eth0]", "192.0.2.7 10.1.0.2", "localhost", "\xff", "192.0.2.7\x00", "1", "::1::",
        "\u0661.2.3.4".encode().decode("latin-1"),
    ],
)  # fmt: skip
def test_an_entry_that_is_not_an_address_hides_the_client(entry):
    assert client_of(forwarded_for=[entry]) == "None"


@pytest.mark.parametrize(
    ("entries", "client"),
    [
        (["for=192.0.2.7"], "192.0.2.7"),
        (["FOR=192.0.2.7"], "192.0.2.7"),
        (['for="192.0.2.7:4711"'], "192.0.2.7"),
        (['for="[2001:db8::7]:4711"'], "2001:db8::7"),
        (['for="[2001:db8::7]:_port"'], "2001:db8::7"),
        (["proto=https;for=192.0.2.7;by=10.0.0.3"], "192.0.2.7"),
        (["for=192.0.2.7, for=10.0.0.3"], "192.0.2.7"),
        (["for=192.0.2.7", "for=10.0.0.3"], "192.0.2.7"),
        (["for=10.1.0.2, for=192.0.2.7;host=a"], "192.0.2.7"),
        # A quoted text may contain separators.
        (['for=10.1.0.2;host="a,for=192.0.2.9;", for=192.0.2.7'], "192.0.2.7"),
        ([r'host="\",for=10.1.0.2,\"";for=192.0.2.7'], "192.0.2.7"),
    ],
)
def test_forwarded_is_read_like_x_forwarded_for(entries, client):
    assert client_of(forwarded=entries) == client


@pytest.mark.parametrize(
    "entry",
    [
        "for=unknown", "for=_hidden", "proto=https", "", "for=", "for", "for=192.0.2.7,",
        "for=192.0.2.7;for=10.1.0.2",  # twice
        "for=[2001:db8::7]",  # must be quoted
        'for="192.0.2.7', "for = 192.0.2.7", "for=192.0.2.7 x", 'for="192.0.2.7"x', ";;;",
    ],
)  # fmt: skip
def test_an_invalid_forwarded_hides_the_client(entry):
    assert client_of(forwarded=[entry]) == "None"


def test_the_client_is_unknown_if_the_two_headers_differ():
    """A proxy adds to one of them only, so the client may have written the other one."""
    assert client_of(["for=192.0.2.7"], ["192.0.2.7"]) == "192.0.2.7"
    assert client_of(["for=10.1.0.2"], ["192.0.2.7"]) == "None"
    assert client_of(["for=192.0.2.7"], ["10.1.0.2"]) == "None"
    assert client_of(["for=unknown"], ["10.1.0.2"]) == "None"
    assert client_of() == "None"


@pytest.mark.parametrize(
    "entry", ["for=a;" * 2_500, 'for="' + "\\" * 15_000, "a," * 8_000, " " * 16_000]
)
def test_a_header_of_the_maximum_size_is_read_in_linear_time(entry):
    """There is no limit to assert: a pattern with exponential time would never end."""
    assert client_of([entry], [entry]) == "None"
