"""Names of hosts: who is asked, who waits for whom, and what is said when there is no answer."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import threading

import pytest
import uvloop

from dns import AAAA, SERVER_FAILURE, SILENT, A, resolving
from fractal_rm.adapters.connect import nss
from fractal_rm.adapters.connect.dns_message import CODES, is_name, question, read_answer
from fractal_rm.adapters.connect.resolver import MAX_LOOKUPS, SILENT_S, NotResolved
from fractal_rm.adapters.connect.resolver_files import ResolverSettings, WatchedFile, read_settings
from fractal_rm.simulation.loop import run_virtual

CAMERA = {"camera.plant": ["10.0.0.7", "fd00::7"]}


def silent(count):
    return {f"silent{n}.plant": SILENT for n in range(count)}


async def why(names, name):
    with pytest.raises(NotResolved) as caught:
        await names.addresses(name)
    return str(caught.value)


# --- who is asked -------------------------------------------------------------------------------


async def test_an_address_and_a_name_of_the_hosts_file_ask_nobody(tmp_path):
    hosts = "# the plant\n10.0.0.8 press Press2 # old\n10.0.0.9 press\nfe80::1%eth0 link\n"
    async with resolving(tmp_path, CAMERA, hosts=hosts) as (dns, names):
        for name, expected in {
            "10.0.0.1": ("10.0.0.1",),
            "::1%1": ("::1%1",),
            "press": ("10.0.0.8", "10.0.0.9"),
            "PRESS2.": ("10.0.0.8",),
            "link": ("fe80::1%eth0",),
            "localhost": ("127.0.0.1", "::1"),
        }.items():
            assert await names.addresses(name) == expected
        assert dns.asked == []


async def _found(folder):
    answers = {**CAMERA, "alias.plant": ["other.plant", "camera.plant", "10.0.0.7"]}
    async with resolving(folder, answers) as (dns, names):
        assert await names.addresses("camera.plant") == ("fd00::7", "10.0.0.7")
        assert await names.addresses("alias.plant") == ("10.0.0.7",)
        assert sorted(dns.asked)[:2] == [("alias.plant", A), ("alias.plant", AAAA)]


def test_dns_is_asked_for_both_kinds_of_address(tmp_path):
    for run in (asyncio.run, uvloop.run):
        run(_found(tmp_path))


async def test_one_answer_serves_all_who_ask_and_is_kept_for_a_while(tmp_path):
    async with resolving(tmp_path, CAMERA) as (dns, names):
        for _ in range(2):
            found = await asyncio.gather(*(names.addresses("camera.plant") for _ in range(10)))
            assert set(found) == {("fd00::7", "10.0.0.7")}
        assert len(dns.asked) == 2


async def test_a_name_is_looked_up_once_however_it_is_written(tmp_path):
    async with resolving(tmp_path, CAMERA) as (dns, names):
        written = "camera.plant", "Camera.plant", "CAMERA.PLANT"
        found = await asyncio.gather(*map(names.addresses, written))
        assert set(found) == {("fd00::7", "10.0.0.7")}
        assert len(dns.asked) == 2


async def test_what_does_not_fit_into_a_datagram_comes_by_tcp(tmp_path):
    many = [f"10.0.{n}.1" for n in range(200)]
    async with resolving(tmp_path, {"farm.plant": many}) as (dns, names):
        dns.only_tcp = True
        assert await names.addresses("farm.plant") == tuple(many)


async def test_by_tcp_alone_where_the_settings_say_so(tmp_path):
    servers = "nameserver 127.0.0.1\noptions use-vc\n"
    async with resolving(tmp_path, CAMERA, servers=servers) as (dns, names):
        dns.only_tcp = True
        assert "10.0.0.7" in await names.addresses("camera.plant")
        assert len(dns.asked) == 2


async def test_a_short_name_is_looked_for_in_the_domains_of_the_search_list(tmp_path):
    servers = "search lab.example plant\nnameserver 127.0.0.1\n"
    async with resolving(tmp_path, CAMERA, servers=servers) as (dns, names):
        assert "10.0.0.7" in await names.addresses("camera")
        assert {name for name, _ in dns.asked} == {"camera.lab.example", "camera.plant"}


async def test_another_server_answers_for_one_that_cannot(tmp_path):
    servers = "nameserver 127.0.0.9\nnameserver 127.0.0.1\n"  # nobody listens at the first
    async with resolving(tmp_path, CAMERA, servers=servers) as (_, names):
        assert "10.0.0.7" in await names.addresses("camera.plant")


async def test_a_server_that_cannot_be_reached_from_here_holds_up_no_other(tmp_path):
    servers = "nameserver fe80::1%none\nnameserver 127.0.0.1\n"
    async with resolving(tmp_path, CAMERA, servers=servers) as (_, names):
        assert "10.0.0.7" in await names.addresses("camera.plant")


@pytest.mark.parametrize(("server", "why"), [
    ("fe80::1%none", "there is no interface 'none' on this machine"),
    ("fe80::1", "a link-local address needs its interface"),
])  # fmt: skip
async def test_what_is_wrong_with_the_zone_of_a_server_is_said(tmp_path, server, why):
    async with resolving(tmp_path, CAMERA, servers=f"nameserver {server}\n") as (_, names):
        with pytest.raises(NotResolved, match=f"DNS {server}: {why}"):
            await names.addresses("camera.plant")


async def test_a_server_that_is_silent_by_tcp_holds_up_no_other(tmp_path):
    servers = "nameserver 127.0.0.9\nnameserver 127.0.0.1\noptions use-vc\n"
    async with resolving(tmp_path, CAMERA, servers=servers) as (dns, names):
        with socket.create_server(("127.0.0.9", dns.port)):  # takes connections, and no more
            assert "10.0.0.7" in await names.addresses("camera.plant")


@pytest.mark.parametrize("words", ["refused", "format error", "server failure"])
async def test_an_error_counts_also_where_it_does_not_repeat_the_question(words, tmp_path):
    code = {text: code for code, text in CODES.items()}[words]
    answers = {"camera.plant": lambda asked: asked[:2] + bytes([0x81, 0x80 | code]) + bytes(8)}
    async with resolving(tmp_path, answers) as (_, names):
        assert f"DNS 127.0.0.1: {words}" in await why(names, "camera.plant")


async def test_a_server_that_only_knows_of_others_does_not_say_that_a_name_is_none(tmp_path):
    def referral(asked):
        return asked[:2] + b"\x81\0\0\1\0\0\0\0\0\0" + asked[12:]

    async with resolving(tmp_path, {"camera.plant": referral}) as (_, names):
        assert "DNS 127.0.0.1: refused" in await why(names, "camera.plant")


@pytest.mark.parametrize("domain", ["x" * 250, "straße.de", "a..b"])
async def test_a_domain_that_makes_no_name_is_passed_over(domain, tmp_path):
    servers = f"search {domain} plant\nnameserver 127.0.0.1\n"
    async with resolving(tmp_path, CAMERA, servers=servers) as (_, names):
        assert "10.0.0.7" in await names.addresses("camera")
        assert "does not exist" in await why(names, "nobody")


async def test_a_server_that_passes_over_one_kind_of_question_holds_up_nobody(tmp_path):
    answers = {"old.plant": {A: ["10.0.0.5"], AAAA: SILENT}}
    async with resolving(tmp_path, answers) as (_, names):
        assert await names.addresses("old.plant") == ("10.0.0.5",)


async def test_a_datagram_that_answers_another_question_is_none(tmp_path):
    forged = bytearray(question(0, "camera.plant", A))
    forged[2] = 0x81
    async with resolving(tmp_path, CAMERA) as (dns, names):
        dns.before = bytes(forged)
        assert "10.0.0.7" in await names.addresses("camera.plant")


async def test_a_change_of_the_files_is_seen_at_the_next_name(tmp_path):
    async with resolving(tmp_path, CAMERA, servers="nameserver 127.0.0.9\n") as (dns, names):
        assert "127.0.0.9" in await why(names, "camera.plant")
        dns.files["resolv.conf"].write_text("nameserver 127.0.0.1\n")
        assert "10.0.0.7" in await names.addresses("camera.plant")
        dns.files["hosts"].write_text("10.0.0.70 camera.plant\n")
        assert await names.addresses("camera.plant") == ("10.0.0.70",)


async def test_a_change_counts_for_the_names_that_are_being_looked_up(tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as mute:
        async with resolving(tmp_path, CAMERA, servers="nameserver 127.0.0.9\n") as (dns, names):
            mute.bind(("127.0.0.9", dns.port))
            waits = asyncio.create_task(names.addresses("camera.plant"))
            await asyncio.get_running_loop().sock_recv(mute, 512)
            dns.files["resolv.conf"].write_text("nameserver 127.0.0.1\n")
            assert "10.0.0.7" in await names.addresses("camera.plant")
            assert "10.0.0.7" in await waits


async def test_files_that_are_written_again_and_say_the_same_change_nothing(tmp_path):
    async with resolving(tmp_path, CAMERA, nsswitch="hosts: files dns\n") as (dns, names):
        await names.addresses("camera.plant")
        for name in ("resolv.conf", "nsswitch.conf"):
            same = dns.files[name].read_text()
            dns.files[name].write_text(f"# written by a DHCP client\n{same}")
            assert "10.0.0.7" in await names.addresses("camera.plant")
        assert len(dns.asked) == 2


async def test_what_one_file_says_is_not_lost_while_another_one_cannot_be_read(tmp_path):
    servers = "nameserver 127.0.0.1\nsearch plant\n"
    async with resolving(tmp_path, CAMERA, servers=servers) as (dns, names):
        dns.files["nsswitch.conf"].unlink()
        dns.files["nsswitch.conf"].mkdir()
        with pytest.raises(IsADirectoryError):
            await names.addresses("camera")
        dns.files["nsswitch.conf"].rmdir()
        assert "10.0.0.7" in await names.addresses("camera")


async def test_a_name_of_the_hosts_file_is_found_while_other_files_cannot_be_read(tmp_path):
    async with resolving(tmp_path, CAMERA, hosts="10.0.0.5 press\n") as (dns, names):
        dns.files["resolv.conf"].unlink()
        dns.files["resolv.conf"].mkdir()
        assert await names.addresses("press") == ("10.0.0.5",)
        with pytest.raises(IsADirectoryError):
            await names.addresses("camera.plant")


async def test_a_file_that_has_no_end_is_not_read(tmp_path):
    async with resolving(tmp_path, CAMERA) as (dns, names):
        dns.files["hosts"].unlink()
        os.mkfifo(dns.files["hosts"])
        with pytest.raises(OSError, match="FIFO"):
            await names.addresses("camera.plant")


# --- the C library --------------------------------------------------------------------------------

SOURCES = "hosts: files mdns4_minimal [ NOTFOUND=return UNAVAIL=continue ] dns myhostname\n"


@pytest.fixture
def library(monkeypatch):
    """The C library's names. One that is None is silent until the end of the test; or an error."""
    known, end = {"printer.local": "10.0.0.3", "gateway": "10.0.0.4"}, threading.Event()

    def getaddrinfo(name, port, **more):
        if name in known and known[name] is None:
            end.wait(60)
        if isinstance(known.get(name), OSError):
            raise known[name]
        if known.get(name) is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known[name], 0))]

    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo",
        lambda name, *a, **more: (real if name[:1].isdigit() else getaddrinfo)(name, *a, **more),
    )  # fmt: skip
    yield known
    end.set()


async def test_the_c_library_finds_names_where_the_machine_has_other_sources(tmp_path, library):
    async with resolving(tmp_path, CAMERA, nsswitch=SOURCES) as (dns, names):
        assert await names.addresses("printer.Local") == ("10.0.0.3",)
        assert dns.asked == []  # mDNS's names are no business of a DNS server (RFC 6762, 3)
        assert await names.addresses("gateway") == ("10.0.0.4",)
        assert "says the C library (mdns4_minimal, myhostname)" in await why(names, "nobody")
        assert "10.0.0.7" in await names.addresses("camera.plant")
    async with resolving(tmp_path, CAMERA, nsswitch="hosts: files dns\n") as (_, names):
        assert "says DNS" in await why(names, "printer.local")


async def test_no_descriptor_for_the_c_library_is_not_taken_for_a_name_that_is_none(
    tmp_path, library
):
    library["press.local"] = OSError(errno.EMFILE, "Too many open files")
    async with resolving(tmp_path, {}, nsswitch=SOURCES) as (_, names):
        with pytest.raises(OSError, match="Too many") as caught:  # whoever asks waits for one
            await names.addresses("press.local")
        assert caught.value.errno == errno.EMFILE
        library["press.local"] = "10.0.0.5"
        assert await names.addresses("press.local") == ("10.0.0.5",)


async def test_sources_of_names_that_are_not_installed_are_no_fault_of_a_file(tmp_path, library):
    library["press.local"] = OSError(errno.EBUSY, "Device or resource busy")  # as glibc says it
    async with resolving(tmp_path, {}, nsswitch=SOURCES) as (_, names):
        said = "press.local did not resolve: the C library (mdns4_minimal, myhostname): Device or"
        assert said in await why(names, "press.local")


async def test_without_a_thread_for_the_c_library_a_name_did_not_resolve(tmp_path, monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")  # as Python says it

    async with resolving(tmp_path, CAMERA, nsswitch=SOURCES) as (_, names):
        monkeypatch.setattr(threading.Thread, "start", start)
        assert "myhostname): can't start new thread" in await why(names, "press.local")
        assert "10.0.0.7" in await names.addresses("camera.plant")


async def test_a_c_library_that_is_silent_holds_up_no_name_of_dns(tmp_path, library):
    mute = {f"mute{n}.local": None for n in range(nss.MAX_THREADS)}
    library.update(mute)
    async with resolving(tmp_path, CAMERA, nsswitch=SOURCES) as (_, names):
        lookups = [asyncio.create_task(names.addresses(name)) for name in mute]
        await asyncio.sleep(0)
        assert "10.0.0.7" in await names.addresses("camera.plant")
        assert "16 other names already" in await why(names, "printer.local")
        assert not any(each.done() for each in lookups)
        for each in lookups:
            each.cancel()


async def test_a_dozen_names_of_which_the_c_library_is_silent_hold_up_no_other_one(
    tmp_path, library
):
    """As machines of mDNS that are off."""
    mute = {f"mute{n}.local": None for n in range(12)}
    library.update(mute)
    async with resolving(tmp_path, CAMERA, nsswitch=SOURCES) as (_, names):
        lookups = [asyncio.create_task(names.addresses(name)) for name in mute]
        await asyncio.sleep(0)
        assert await names.addresses("printer.local") == ("10.0.0.3",)
        assert not any(each.done() for each in lookups)
        for each in lookups:
            each.cancel()


async def test_the_c_library_is_asked_anew_when_the_files_have_changed(tmp_path, library):
    library["mute.local"] = None
    async with resolving(tmp_path, CAMERA, nsswitch=SOURCES) as (dns, names):
        waits = asyncio.create_task(names.addresses("mute.local"))
        await asyncio.sleep(0.01)
        library["mute.local"] = "10.0.0.6"
        dns.files["resolv.conf"].write_text("nameserver 127.0.0.9\n")
        assert await names.addresses("mute.local") == ("10.0.0.6",)
        assert await waits == ("10.0.0.6",)


async def _mute_name(folder, library):
    library["mute.local"] = None
    async with resolving(folder, CAMERA, nsswitch=SOURCES) as (_, names):
        for _ in range(nss.MAX_THREADS):
            assert "no answer from the C library" in await why(names, "mute.local")
            await asyncio.sleep(SILENT_S)
        assert await why_or_addresses(names, "printer.local") == ("10.0.0.3",)


def test_a_silent_name_never_has_more_than_one_thread_of_the_c_library(tmp_path, library):
    run_virtual(_mute_name(tmp_path, library))


# --- no answer ----------------------------------------------------------------------------------


async def test_a_name_that_does_not_exist_is_told_from_a_server_that_fails(tmp_path):
    async with resolving(tmp_path, {"broken.plant": SERVER_FAILURE}) as (dns, names):
        said = (
            "nobody.plant did not resolve: it does not exist or has no address, says DNS 127.0.0.1"
        )
        assert (await why(names, "nobody.plant")).endswith(said)
        assert "did not resolve: DNS 127.0.0.1: server failure" in await why(names, "broken.plant")
        count = len(dns.asked)
        assert "looked up again in 5 s" in await why(names, "nobody.plant")
        assert len(dns.asked) == count


async def _silence(folder):
    async with resolving(folder, {"mute.plant": SILENT}) as (dns, names):
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        said = await why(names, "mute.plant")
        assert said.endswith("mute.plant did not resolve: no answer from DNS 127.0.0.1 within 3 s")
        assert loop.time() - began_s == pytest.approx(3)
        count = len(dns.asked)
        assert count == 4  # two kinds of address, two attempts
        assert "looked up again in 30 s" in await why(names, "mute.plant")
        assert len(dns.asked) == count
        dns.answers["mute.plant"] = ["10.0.0.6"]
        await asyncio.sleep(SILENT_S)
        assert await why_or_addresses(names, "mute.plant") == ("10.0.0.6",)


async def why_or_addresses(names, name):
    lookup = asyncio.ensure_future(names.addresses(name))
    while not lookup.done():  # the answer comes in real time, and virtual time must not run ahead
        await asyncio.sleep(0)
    return lookup.result()


def test_a_silent_name_is_given_up_after_3_s_and_not_asked_again_for_30_s(tmp_path):
    run_virtual(_silence(tmp_path))


async def _crowd(folder):
    async with resolving(folder, silent(40)) as (dns, names):
        lookups = [asyncio.create_task(names.addresses(name)) for name in dns.answers]
        await asyncio.sleep(2.9)
        assert len({name for name, _ in dns.asked}) == MAX_LOOKUPS
        assert "32 others are being looked up" in names.unanswered("silent39.plant")
        await asyncio.gather(*lookups, return_exceptions=True)
        assert len({name for name, _ in dns.asked}) == 40


def test_no_more_than_32_lookups_are_under_way(tmp_path):
    run_virtual(_crowd(tmp_path))


async def test_silent_names_hold_up_no_other_name(tmp_path):
    answers = {**CAMERA, **silent(MAX_LOOKUPS - 1)}
    async with resolving(tmp_path, answers, hosts="10.0.0.8 press\n") as (_, names):
        lookups = [asyncio.create_task(names.addresses(name)) for name in silent(MAX_LOOKUPS - 1)]
        await asyncio.sleep(0)
        assert "10.0.0.7" in await names.addresses("camera.plant")
        assert await names.addresses("press") == ("10.0.0.8",)
        assert not any(each.done() for each in lookups)
        for each in lookups:
            each.cancel()


async def test_who_waits_for_a_name_when_the_node_stops_is_told_so(tmp_path):
    async with resolving(tmp_path, {"mute.plant": SILENT}) as (_, names):
        lookup = asyncio.create_task(why(names, "mute.plant"))
        await asyncio.sleep(0)
        names.close()
        assert "the node is stopping" in await lookup


# --- the files and the messages -------------------------------------------------------------------


def test_resolv_conf_is_read_as_the_c_library_reads_it():
    text = """\
# made by something
domain first.example
search plant.example lab.example.
nameserver 10.0.0.53
nameserver fe80::1%eth0
nameserver nonsense
nameserver 10.0.0.54
nameserver 10.0.0.55
options ndots:2 attempts:9 rotate edns0
"""
    settings = read_settings(text)
    assert settings == ResolverSettings(
        ("10.0.0.53", "fe80::1%eth0", "10.0.0.54"), ("plant.example", "lab.example"), 2, 5, True
    )
    assert settings.candidates("a.b") == ("a.b.plant.example", "a.b.lab.example", "a.b")
    assert settings.candidates("a.b.c")[0] == "a.b.c"
    assert settings.candidates("a.b.") == ("a.b.",)
    assert read_settings("options ndots:\u00b2") == read_settings("")  # a digit, and no number
    assert read_settings("search .\n").servers == ("127.0.0.1",)


@pytest.mark.parametrize("name", ["a..b", "x" * 64, "x." * 130, "", "straße"])
def test_what_can_be_no_name_is_not_asked_for(name):
    assert not is_name(name)


def test_of_a_long_answer_a_bounded_part_is_read():
    asked = question(7, "camera.plant", A)
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x1e\0\4"
    records = b"".join(record + n.to_bytes(4, "big") for n in range(4_000))
    answer = read_answer(asked[:2] + b"\x81\x80\0\1\x0f\xa0\0\0\0\0" + asked[12:] + records, asked)
    assert len(answer.addresses) == 256
    twice = read_answer(
        asked[:2] + b"\x81\x80\0\1\0\2\0\0\0\0" + asked[12:] + 2 * records[:16], asked
    )
    assert twice.addresses == ("0.0.0.0",)


def test_no_bytes_break_the_reader():
    asked = question(7, "camera.plant", A)
    whole = asked[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + asked[12:]
    whole += b"\xc0\x0c\0\1\0\1\0\0\0\x1e\0\4\x0a\0\0\7"
    assert read_answer(whole, asked).addresses == ("10.0.0.7",)
    looped = whole[: len(asked)] + b"\xc0" + bytes([len(asked)]) + whole[len(asked) + 2 :]
    assert read_answer(looped, asked) is None
    chance = random.Random(1)
    for size in range(len(whole)):
        assert read_answer(whole[:size], asked) is None
        broken = bytearray(whole)
        broken[size] = chance.randrange(256)
        read_answer(bytes(broken), asked)


def test_a_hosts_file_that_is_a_fifo_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "hosts")
    with pytest.raises(OSError, match="it is a FIFO"):
        WatchedFile(tmp_path / "hosts").read_if_changed()
