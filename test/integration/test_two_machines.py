"""Two nodes on two machines hand runs off to each other.

The machines are network namespaces. The second machine has an additional address that the first
machine does not trust.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from components import Components
from fractal_rm.domain.state import State
from machines import connect, machine
from nodes import wait_until
from sites import (
    BODY,
    FIRST,
    FIRST_6,
    ORIGINAL_HEADERS,
    SECOND,
    SECOND_6,
    STRANGER,
    STRANGER_6,
    Site,
    assert_handed_off,
)


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    first_machine = machine(f"{FIRST}/24", f"{FIRST_6}/64", "fe80::77/64")
    second_machine = machine(f"{SECOND}/24", f"{STRANGER}/24", f"{SECOND_6}/64", f"{STRANGER_6}/64")
    with connect(first_machine, second_machine):
        first = Site(first_machine, tmp_path_factory.mktemp("first"), FIRST, "1")
        second = Site(second_machine, tmp_path_factory.mktemp("second"), SECOND, "2")
        first.node.edit("comm", rest__trusted_peers=[SECOND, SECOND_6])
        second.node.edit("comm", rest__trusted_peers=[FIRST])
        first.node.add_peer(
            first.node, "1", ip="Edge-1.local.", headers={"Host": "gateway.example:8443"}
        )
        second.node.add_peer(first.node, "1", ip=FIRST)
        for site in (first, second):
            site.node.add_peer(second.node, "2", ip=SECOND, peer="fractal")
        original = second_machine.call(Components, SECOND)
        original.answers["/startrm"] = (200, "200\n")
        first.node.add_peer(SimpleNamespace(rest=original.port), "3", ip=SECOND, peer="original")
        for site in (first, second):
            site.machine.call(site.node.start)
        yield SimpleNamespace(first=first, second=second, original=original)
        first.end()
        second.end()
        original.stop()


@pytest.mark.parametrize(("sender", "receiver"), [("first", "second"), ("second", "first")])
def test_a_run_is_handed_off_and_executed_on_the_other_machine(sites, sender, receiver):
    assert_handed_off(getattr(sites, sender), getattr(sites, receiver))


def test_a_run_is_handed_off_to_an_original(sites):
    sites.first.set_balancer("3")
    sites.first.wait_for_state(sites.first.send_trigger(), State.HANDED_OFF)
    path, _, body = sites.original.requests[-1]
    assert (path, json.loads(body)["is_load_balancing"]) == ("/startrm", True)


def test_an_original_hands_off_a_run(sites):
    status, body = sites.first.answer_to(sites.second, "POST", "/startrm", BODY, ORIGINAL_HEADERS)
    assert status == 200
    sites.first.wait_for_state(json.loads(body)["run"], State.SUCCEEDED)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/startrm"),
        ("GET", "/v1/node"),
        ("PUT", "/v1/node/draining"),
        ("POST", "/v1/runs/NOSUCH/resolve"),
        ("POST", "/v1/flows/1/runs"),
        ("GET", "/v1/runs"),
        ("GET", "/v1/flows"),
        ("GET", "/readyz"),
        ("GET", "/livez"),
        ("GET", "/schema"),
        ("POST", "/startrm/../v1/flows/1/runs"),
        ("POST", "/v1/flows/1/runs?x=/startrm"),
        ("POST", f"http://{FIRST}/v1/flows/1/runs"),
        ("GET", "/nothing"),
    ],
)
def test_a_trusted_machine_may_use_only_the_trigger_endpoint(sites, method, path):
    status, body = sites.first.answer_to(sites.second, method, path, BODY, ORIGINAL_HEADERS)
    assert (status, json.loads(body)["type"]) == (403, "urn:fractal-rm:peer-refused")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_trusted_machine_may_ask_what_the_node_is(sites, method):
    status, body = sites.first.answer_to(sites.second, method, "/startrm")
    assert status == 200
    assert method == "HEAD" or json.loads(body)["node"] == "1"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (FIRST, 200),
        (f"{FIRST}:1", 200),
        (f"[{FIRST_6}]", 200),
        ("[fe80::77]", 200),
        ("localhost", 200),
        ("edge-1.local", 200),
        ("EDGE-1.local:5000", 200),
        ("edge-1.local.", 200),
        ("gateway.example", 200),
        (f"{FIRST} \t", 200),  # spaces after a value are ignored: RFC 9110, 5.5
        (SECOND, 421),
        ("0.0.0.0", 421),
        ("10.177.0.255", 421),  # a socket can be bound to this address
        ("255.255.255.255", 421),
        ("evil.example", 421),
    ],
)
def test_the_host_of_a_request_must_be_an_address_or_a_name_of_the_node(sites, host, status):
    headers = {**ORIGINAL_HEADERS, "Host": host}
    received_status, _ = sites.first.answer_to(sites.second, "POST", "/startrm", BODY, headers)
    assert received_status == status


def test_the_address_of_another_machine_is_refused_even_if_any_address_can_be_bound(sites):
    """The setting ip_nonlocal_bind is used where addresses move between machines (VRRP)."""
    first, setting = sites.first, Path("/proc/sys/net/ipv6/ip_nonlocal_bind")
    first.machine.call(setting.write_text, "1")
    try:
        answers = [
            first.answer_to(
                sites.second, "POST", "/startrm", BODY, {**ORIGINAL_HEADERS, "Host": f"[{host}]"}
            ).status
            for host in (SECOND_6, FIRST_6)
        ]
    finally:
        first.machine.call(setting.write_text, "0")
    assert answers == [421, 200]


def test_an_address_that_has_moved_to_another_machine_is_refused(sites):
    first, moved_address = sites.first, ("10.177.0.50/32", "dev", "cable")

    def status() -> int:
        headers = {**ORIGINAL_HEADERS, "Host": "10.177.0.50"}
        return first.answer_to(sites.second, "POST", "/startrm", BODY, headers).status

    first.machine.ip("address", "add", *moved_address)
    status_before = status()
    first.machine.ip("address", "del", *moved_address)
    assert (status_before, status()) == (200, 421)


def test_a_page_of_another_site_cannot_start_runs_through_a_trusted_machine(sites):
    headers = {**ORIGINAL_HEADERS, "Origin": "http://evil.example"}
    assert sites.first.answer_to(sites.second, "POST", "/startrm", BODY, headers).status == 421


def test_programs_on_the_machine_are_served_at_its_loopback_address(sites):
    assert sites.first.ready().status == 200
    assert sites.first.machine.call(sites.first.node.get, "/v1/flows").status == 200


def test_a_stranger_is_refused_before_the_body_is_read_and_the_refusal_is_logged_once(sites):
    first, head = sites.first, (
        f"POST /startrm HTTP/1.1\r\nHost: {FIRST}\r\nContent-Type: application/json\r\n"
        "Content-Length: 100000\r\n\r\n"
    )  # fmt: skip

    def send_head() -> bytes:
        source = (STRANGER, 0)
        with socket.create_connection((FIRST, first.node.rest), 20, source) as stranger:
            stranger.sendall(head.encode())
            received = b""
            while chunk := stranger.recv(65_536):
                received += chunk
        return received

    runs_before, refusals_before = len(first.node.runs()), first.count_refusals()
    for _ in range(3):
        answer = sites.second.machine.call(send_head)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"10.177.0.9 is not in rest.trusted_peers" in answer
    assert first.node.log.count("peer_refused peer=10.177.0.9") == 1
    assert len(first.node.runs()) == runs_before
    assert first.count_refusals() == refusals_before + 3


@pytest.mark.parametrize(
    "request_bytes", [b"\x16\x03\x01\0", b"GET /" + 16_384 * b"a"], ids=["TLS", "endless"]
)
def test_a_stranger_whose_request_cannot_be_read_is_refused_too(sites, request_bytes):
    def answer() -> bytes:
        address, source = (FIRST, sites.first.node.rest), (STRANGER, 0)
        with socket.create_connection(address, 20, source) as stranger:
            stranger.sendall(request_bytes)
            return stranger.recv(65_536)

    refusals_before = sites.first.count_refusals()
    assert sites.second.machine.call(answer).startswith(b"HTTP/1.1 403 ")
    assert sites.first.count_refusals() == refusals_before + 1


def test_a_change_of_trusted_peers_does_not_reset_the_count_of_refusals(sites):
    def refuse() -> None:
        answer = first.answer_to(sites.second, "GET", "/v1/runs", source=STRANGER)
        assert answer.status == 403

    first = sites.first
    refuse()
    refusals_before = first.count_refusals()
    logged = first.node.log.count("peer_refused peer=10.177.0.9")
    applied = first.node.log.count(" config_applied ")
    first.node.edit("comm", rest__trusted_peers=[SECOND, SECOND_6, "10.177.0.7"])
    wait_until(lambda: first.node.log.count(" config_applied ") > applied)
    refuse()
    assert first.count_refusals() == refusals_before + 1
    assert first.node.log.count("peer_refused peer=10.177.0.9") == logged


def test_many_connections_of_strangers_do_not_block_trusted_machines(sites):
    def connect_all() -> list[socket.socket]:
        address, source = (FIRST, sites.first.node.rest), (STRANGER, 0)
        return [socket.create_connection(address, 20, source) for _ in range(200)]

    refusals_before = sites.first.count_refusals()
    strangers = sites.second.machine.call(connect_all)
    closed = 0
    for stranger in strangers[:100]:  # the oldest connections are closed without an answer
        try:
            closed += stranger.recv(1) == b""
        except ConnectionResetError:
            closed += 1
    assert closed == 100
    assert sites.first.count_refusals() - refusals_before >= 100
    answer = sites.first.answer_to(sites.second, "POST", "/startrm", BODY, ORIGINAL_HEADERS)
    assert answer.status == 200
    for stranger in strangers:
        stranger.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", FIRST_6])
def test_trusted_peers_are_recognized_at_ipv4_ipv6_and_dual_stack_sockets(sites, host):
    first = sites.first
    applied = first.node.log.count(" config_applied ")
    first.node.edit("comm", rest__host=host)
    wait_until(lambda: first.node.log.count(" config_applied ") > applied)
    ip_versions = {"0.0.0.0": [4], "::": [4, 6], FIRST_6: [6]}[host]
    for ip_version in ip_versions:
        to, trusted, stranger = {4: (FIRST, SECOND, STRANGER),
                                 6: (FIRST_6, SECOND_6, STRANGER_6)}[ip_version]  # fmt: skip
        answers = [
            first.answer_to(
                sites.second, "POST", "/startrm", BODY, ORIGINAL_HEADERS, to=to, source=source
            ).status
            for source in (trusted, stranger)
        ]
        assert answers == [200, 403]
        answer = first.answer_to(sites.second, "GET", "/v1/runs", to=to, source=trusted)
        assert answer.status == 403
    assert first.ready().status == 200


def test_a_machine_that_is_no_longer_trusted_is_refused_even_on_an_open_connection(sites):
    """A run that the balancer places on the other machine is then executed here."""
    kept_connection = http.client.HTTPConnection(SECOND, sites.second.node.rest, 20)

    def answer() -> int:
        kept_connection.request("POST", "/startrm", BODY, ORIGINAL_HEADERS)
        reply = kept_connection.getresponse()
        reply.read()
        return reply.status

    assert sites.first.machine.call(answer) == 200
    applied = sites.second.node.log.count(" config_applied ")
    sites.second.node.edit("comm", rest__trusted_peers=[STRANGER])
    wait_until(lambda: sites.second.node.log.count(" config_applied ") > applied)
    open_socket = kept_connection.sock
    assert sites.first.machine.call(answer) == 403
    assert kept_connection.sock is None  # the connection was closed after this response
    assert open_socket is not None
    sites.first.set_balancer("2")
    details = sites.first.wait_for_state(sites.first.send_trigger(), State.SUCCEEDED)
    reasons = [getattr(each.fact, "reason", "") for each in details.facts]
    assert any("node 2 refused the run (403): " in reason for reason in reasons)
