"""Connections of HTTP/1.1 calls to a host: names, addresses, zones, time limits."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest
import uvloop

from dns import SILENT, resolving
from fractal_rm.domain.call import Origin, Route, header_line, route
from fractal_rm.domain.call_errors import ConnectFailed
from machines import machine
from ports import free_port, port_of
from scripted_server import Server, calling, serving, to


async def test_a_call_whose_connection_was_refused_counts_as_not_sent():
    async with serving() as server:
        pass
    async with calling() as caller:
        with pytest.raises(ConnectFailed, match="refused") as caught:
            await caller.call(to(server))
    assert not caught.value.sent


async def test_the_error_for_an_unreachable_address_has_the_text_of_the_error_number(monkeypatch):
    async def fail(*_):
        raise OSError(errno.EHOSTUNREACH, "Connect call failed ('10.0.0.7', 80)")  # as asyncio does

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", fail)
    async with calling() as caller:
        with pytest.raises(ConnectFailed, match=r"//10\.0\.0\.7:80: No route to host"):
            await caller.call(route(Origin("http", "10.0.0.7", 80), "GET", "/"))


async def test_connecting_has_its_own_time_limit():
    # The kernel does not answer a SYN if the backlog of the server is full.
    with socket.socket() as silent_server:
        silent_server.bind(("127.0.0.1", free_port()))
        silent_server.listen(0)
        clients = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(silent_server.getsockname())
            clients.append(client)
        get = route(
            Origin("http", "127.0.0.1", port_of(silent_server)),
            "GET",
            "/",
            connect_timeout_s=0.2,
        )
        async with calling() as caller:
            with pytest.raises(ConnectFailed, match=r"within 0\.2 s"):
                await caller.call(get)
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody.plant", "the name nobody.plant did not resolve: according to"),
        ("lb..local", "this is not a valid host name"),
        ("x" * 64, "this is not a valid host name"),
        ("a\0b", "does not exist"),
    ],
)
@pytest.mark.parametrize("protocol", ["http", "https"])
async def test_a_name_that_does_not_exist_is_a_connect_failure(protocol, name, words, tmp_path):
    get = Route(Origin(protocol, name, 80), "GET", "/", b"GET / HTTP/1.1\r\n")
    async with resolving(tmp_path, {}) as (_, names), calling(names) as caller:
        with pytest.raises(ConnectFailed, match=words) as caught:
            await caller.call(get)
        assert not caught.value.sent


async def test_the_error_names_the_host_name_that_was_not_resolved_in_time(tmp_path):
    get = route(Origin("http", "silent.plant", 80), "GET", "/", connect_timeout_s=0.1)
    async with (
        resolving(tmp_path, {"silent.plant": SILENT}) as (_, names),
        calling(names) as caller,
    ):
        with pytest.raises(ConnectFailed) as caught:
            await caller.call(get)
    assert str(caught.value) == (
        "http://silent.plant:80: the name silent.plant did not resolve: "
        "no answer from DNS 127.0.0.1 within 0.1 s"
    )


async def test_the_error_names_a_resolver_file_that_cannot_be_read(tmp_path):
    get = route(Origin("http", "camera.plant", 80), "GET", "/")
    async with resolving(tmp_path, {}) as (dns, names), calling(names) as caller:
        dns.files["resolv.conf"].unlink()
        dns.files["resolv.conf"].mkdir()
        with pytest.raises(ConnectFailed) as caught:
            await caller.call(get)
    assert str(caught.value) == (
        "http://camera.plant:80: the name camera.plant did not resolve: "
        f"{dns.files['resolv.conf']}: Is a directory"
    )


async def test_names_without_an_answer_do_not_delay_calls_to_other_hosts(tmp_path):
    silent = {f"silent{n}.plant": SILENT for n in range(40)}
    with_hosts = resolving(tmp_path, silent, hosts="127.0.0.1 camera\n")
    async with serving() as server, with_hosts as (_, names), calling(names) as caller:
        hung = [asyncio.ensure_future(caller.call(to(server, host=name))) for name in silent]
        await asyncio.sleep(0)
        assert (await caller.call(to(server, host="camera"))).body == b"ok"
        assert not any(each.done() for each in hung)
        for each in hung:
            each.cancel()


async def test_the_address_that_worked_last_is_tried_first_and_then_the_others_in_turn(tmp_path):
    answers = {"camera.plant": ["127.0.0.9", "127.0.0.8", "127.0.0.1"]}
    async with serving() as server, resolving(tmp_path, answers) as (_, names):
        get = to(server, host="camera.plant", repeatable=False)
        async with calling(names) as caller:
            assert (await caller.call(get)).body == b"ok"
            await names.addresses("camera.plant")
            assert caller.connector.preferred_address("camera.plant") == "127.0.0.1"
            assert (await caller.call(get)).body == b"ok"
    async with calling(names) as caller:
        with pytest.raises(ConnectFailed) as caught:
            await caller.call(get)
    refused = "127.0.0.9: connection refused; 127.0.0.8: connection refused; 127.0.0.1: connection"
    assert refused in str(caught.value)


async def test_a_server_that_does_not_answer_the_tls_handshake_times_out():
    async with serving() as server, calling() as caller:
        by_tls = to(server, protocol="https", connect_timeout_s=0.1)
        with pytest.raises(ConnectFailed, match="did not answer the TLS handshake in time"):
            await caller.call(by_tls)


async def test_the_host_header_contains_an_address_without_its_zone():
    server = Server()
    listening = await asyncio.start_server(server.handle, "::1", free_port())
    server.port = port_of(listening)
    async with calling() as caller:
        assert (await caller.call(to(server, host="::1%1"))).body == b"ok"
        await caller.close()
        await server.closed.wait()
    listening.close()
    assert b"Host: [::1]:%d\r\n" % server.port in server.requests[0]
    assert str(Origin("http", "fe80::7%eth0", 80)) == "http://[fe80::7%eth0]:80"


def test_a_control_character_cannot_become_a_header():
    for bad in ("a\r\nX: y", "a\nb", "a\0b", "\x1b[31m", "a\x0bb", "\x7f"):
        with pytest.raises(ValueError, match="control character"):
            header_line("X", bad)
    assert header_line("X", "a\tb") == b"X: a\tb"  # a tab is allowed (RFC 9110, 5.5)


async def test_an_unknown_zone_is_an_error():
    async with serving() as server, calling() as caller:
        with pytest.raises(ConnectFailed, match=r"::1%none\]:\d+: .*no interface 'none'"):
            await caller.call(to(server, host="fe80::1%none"))


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("::1%lo", "only a link-local address may have an interface: leave out %lo"),
        ("fe80::1", "a link-local address needs its interface, as in fe80::7%eth0"),
        ("fe80::1%0", "a link-local address needs its interface, as in fe80::7%eth0"),
        # As labels of host names, these would be invalid: empty, or over 63 characters long.
        ("fe80::1%a..b", "there is no interface 'a..b' on this machine"),
        ("::1%a..b", "there is no interface 'a..b' on this machine"),
        ("fe80::1%" + 64 * "a", "there is no interface 'a{64}' on this machine"),
    ],
)
async def test_a_missing_zone_and_a_zone_that_is_not_needed_are_errors(host, reason):
    async with serving() as server, calling() as caller:
        with pytest.raises(ConnectFailed, match=reason):
            await caller.call(to(server, host=host))


async def _call_by_the_second_interface():
    """Call a server whose link-local address can be reached only by the interface "second"."""
    async with calling() as caller:
        server = Server()
        listening = await asyncio.start_server(server.handle, "::", free_port())
        server.port = port_of(listening)
        reply = await caller.call(to(server, host="fe80::7%second"))
        with pytest.raises(ConnectFailed, match="no interface 'third'"):
            await caller.call(to(server, host="fe80::7%third"))
        with pytest.raises(ConnectFailed, match="needs its interface"):
            await caller.call(to(server, host="fe80::7"))
        listening.close()
    return reply.body


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_zone_selects_the_interface(run):
    client_machine = machine()
    try:
        for name in ("first", "second"):
            client_machine.ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-end")
            client_machine.ip("link", "set", f"{name}-end", "up")
            client_machine.ip("link", "set", name, "up")
            client_machine.ip("address", "add", "fe80::1/64", "dev", name, "nodad")
        client_machine.ip("address", "add", "fe80::7/64", "dev", "second-end", "nodad")
        assert client_machine.call(run, _call_by_the_second_interface()) == b"ok"
    finally:
        client_machine.end()


async def test_the_error_does_not_list_hundreds_of_addresses(tmp_path):
    answers = {"farm.plant": [f"127.0.1.{n}" for n in range(1, 201)]}
    with_names = resolving(tmp_path, answers)
    async with serving() as server, with_names as (_, names), calling(names) as caller:
        with pytest.raises(ConnectFailed) as caught:
            await caller.call(to(server, host="farm.plant"))
    assert "127.0.1.8: connection refused; and so on: all 200 addresses failed" in str(caught.value)
    assert "127.0.1.9" not in str(caught.value)
