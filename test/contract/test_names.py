"""Resolution of host names: which servers are asked, how long lookups take, and error texts."""

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
from fractal_rm.adapters.connect.resolver import MAX_LOOKUPS, TIMEOUT_CACHED_S
from fractal_rm.adapters.connect.resolver_files import ResolverSettings, WatchedFile, read_settings
from fractal_rm.adapters.connect.sources import NotResolved
from fractal_rm.simulation.loop import run_virtual

CAMERA = {"camera.plant": ["10.0.0.7", "fd00::7"]}


def silent_names(count):
    """Names for which the DNS server sends no response."""
    return {f"silent{n}.plant": SILENT for n in range(count)}


async def error_for(names, name):
    """Look up a name. Asserts that it does not resolve, and returns the error text."""
    with pytest.raises(NotResolved) as caught:
        await names.addresses(name)
    return str(caught.value)


# --- which server is asked ----------------------------------------------------------------------


async def test_addresses_and_names_in_the_hosts_file_need_no_server(tmp_path):
    hosts = "# the plant\n10.0.0.8 press Press2 # old\n10.0.0.9 press\nfe80::1%eth0 link\n"
    async with resolving(tmp_path, CAMERA, hosts=hosts) as (dns, names):
        for name, addresses in {
            "10.0.0.1": ("10.0.0.1",),
            "::1%1": ("::1%1",),
            "press": ("10.0.0.8", "10.0.0.9"),
            "PRESS2.": ("10.0.0.8",),
            "link": ("fe80::1%eth0",),
            "localhost": ("127.0.0.1", "::1"),
        }.items():
            assert await names.addresses(name) == addresses
        assert dns.questions == []


async def _look_up_both_kinds(folder):
    answers = {**CAMERA, "alias.plant": ["other.plant", "camera.plant", "10.0.0.7"]}
    async with resolving(folder, answers) as (dns, names):
        assert await names.addresses("camera.plant") == ("fd00::7", "10.0.0.7")
        assert await names.addresses("alias.plant") == ("10.0.0.7",)
        assert sorted(dns.questions)[:2] == [("alias.plant", A), ("alias.plant", AAAA)]


def test_dns_is_asked_for_both_kinds_of_address(tmp_path):
    for run in (asyncio.run, uvloop.run):
        run(_look_up_both_kinds(tmp_path))


async def test_callers_at_the_same_time_share_one_lookup_whose_result_is_cached(tmp_path):
    async with resolving(tmp_path, CAMERA) as (dns, names):
        for _ in range(2):
            results = await asyncio.gather(*(names.addresses("camera.plant") for _ in range(10)))
            assert set(results) == {("fd00::7", "10.0.0.7")}
        assert len(dns.questions) == 2


async def test_the_case_of_a_name_does_not_matter(tmp_path):
    async with resolving(tmp_path, CAMERA) as (dns, names):
        spellings = "camera.plant", "Camera.plant", "CAMERA.PLANT"
        results = await asyncio.gather(*map(names.addresses, spellings))
        assert set(results) == {("fd00::7", "10.0.0.7")}
        assert len(dns.questions) == 2


async def test_an_answer_that_is_too_large_for_a_datagram_is_requested_by_tcp(tmp_path):
    addresses = [f"10.0.{n}.1" for n in range(200)]
    async with resolving(tmp_path, {"farm.plant": addresses}) as (dns, names):
        dns.only_tcp = True
        assert await names.addresses("farm.plant") == tuple(addresses)


async def test_only_tcp_is_used_with_the_option_use_vc(tmp_path):
    servers = "nameserver 127.0.0.1\noptions use-vc\n"
    async with resolving(tmp_path, CAMERA, servers=servers) as (dns, names):
        dns.only_tcp = True
        assert "10.0.0.7" in await names.addresses("camera.plant")
        assert len(dns.questions) == 2


async def test_a_short_name_is_tried_in_the_domains_of_the_search_list(tmp_path):
    servers = "search lab.example plant\nnameserver 127.0.0.1\n"
    async with resolving(tmp_path, CAMERA, servers=servers) as (dns, names):
        assert "10.0.0.7" in await names.addresses("camera")
        assert {name for name, _ in dns.questions} == {"camera.lab.example", "camera.plant"}


async def test_the_next_server_is_asked_if_a_server_fails(tmp_path):
    servers = "nameserver 127.0.0.9\nnameserver 127.0.0.1\n"  # nothing listens on 127.0.0.9
    async with resolving(tmp_path, CAMERA, servers=servers) as (_, names):
        assert "10.0.0.7" in await names.addresses("camera.plant")


async def test_an_unreachable_server_does_not_delay_the_others(tmp_path):
    servers = "nameserver fe80::1%none\nnameserver 127.0.0.1\n"
    async with resolving(tmp_path, CAMERA, servers=servers) as (_, names):
        assert "10.0.0.7" in await names.addresses("camera.plant")


@pytest.mark.parametrize(("server", "reason"), [
    ("fe80::1%none", "there is no interface 'none' on this machine"),
    ("fe80::1", "a link-local address needs its interface"),
])  # fmt: skip
async def test_the_error_names_a_wrong_zone_of_a_server(tmp_path, server, reason):
    async with resolving(tmp_path, CAMERA, servers=f"nameserver {server}\n") as (_, names):
        with pytest.raises(NotResolved, match=f"DNS {server}: {reason}"):
            await names.addresses("camera.plant")


async def test_a_server_that_does_not_answer_by_tcp_does_not_delay_the_others(tmp_path):
    servers = "nameserver 127.0.0.9\nnameserver 127.0.0.1\noptions use-vc\n"
    async with resolving(tmp_path, CAMERA, servers=servers) as (dns, names):
        with socket.create_server(("127.0.0.9", dns.port)):  # accepts connections but sends nothing
            assert "10.0.0.7" in await names.addresses("camera.plant")


@pytest.mark.parametrize("words", ["refused", "format error", "server failure"])
async def test_an_error_response_without_the_question_is_accepted(words, tmp_path):
    code = {text: code for code, text in CODES.items()}[words]
    answers = {"camera.plant": lambda query: query[:2] + bytes([0x81, 0x80 | code]) + bytes(8)}
    async with resolving(tmp_path, answers) as (_, names):
        assert f"DNS 127.0.0.1: {words}" in await error_for(names, "camera.plant")


async def test_a_referral_is_reported_as_a_refusal_of_the_server(tmp_path):
    def referral(query):
        return query[:2] + b"\x81\0\0\1\0\0\0\0\0\0" + query[12:]

    async with resolving(tmp_path, {"camera.plant": referral}) as (_, names):
        assert "DNS 127.0.0.1: refused" in await error_for(names, "camera.plant")


@pytest.mark.parametrize("domain", ["x" * 250, "straße.de", "a..b"])
async def test_a_search_domain_is_skipped_if_the_name_with_it_would_be_invalid(domain, tmp_path):
    servers = f"search {domain} plant\nnameserver 127.0.0.1\n"
    async with resolving(tmp_path, CAMERA, servers=servers) as (_, names):
        assert "10.0.0.7" in await names.addresses("camera")
        assert "does not exist" in await error_for(names, "nobody")


async def test_a_server_that_ignores_questions_for_ipv6_does_not_delay_a_lookup(tmp_path):
    answers = {"old.plant": {A: ["10.0.0.5"], AAAA: SILENT}}
    async with resolving(tmp_path, answers) as (_, names):
        assert await names.addresses("old.plant") == ("10.0.0.5",)


async def test_an_answer_to_another_question_is_ignored(tmp_path):
    forged = bytearray(question(0, "camera.plant", A))
    forged[2] = 0x81
    async with resolving(tmp_path, CAMERA) as (dns, names):
        dns.datagram_before = bytes(forged)
        assert "10.0.0.7" in await names.addresses("camera.plant")


async def test_changed_files_are_used_for_the_next_lookup(tmp_path):
    async with resolving(tmp_path, CAMERA, servers="nameserver 127.0.0.9\n") as (dns, names):
        assert "127.0.0.9" in await error_for(names, "camera.plant")
        dns.files["resolv.conf"].write_text("nameserver 127.0.0.1\n")
        assert "10.0.0.7" in await names.addresses("camera.plant")
        dns.files["hosts"].write_text("10.0.0.70 camera.plant\n")
        assert await names.addresses("camera.plant") == ("10.0.0.70",)


async def test_changed_files_are_used_for_running_lookups(tmp_path):
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_INET, kind) as silent_server:
        async with resolving(tmp_path, CAMERA, servers="nameserver 127.0.0.9\n") as (dns, names):
            silent_server.bind(("127.0.0.9", dns.port))
            lookup = asyncio.create_task(names.addresses("camera.plant"))
            await asyncio.get_running_loop().sock_recv(silent_server, 512)
            dns.files["resolv.conf"].write_text("nameserver 127.0.0.1\n")
            assert "10.0.0.7" in await names.addresses("camera.plant")
            assert "10.0.0.7" in await lookup


async def test_results_stay_cached_if_files_are_written_again_with_the_same_settings(tmp_path):
    async with resolving(tmp_path, CAMERA, nsswitch="hosts: files dns\n") as (dns, names):
        await names.addresses("camera.plant")
        for name in ("resolv.conf", "nsswitch.conf"):
            same = dns.files[name].read_text()
            dns.files[name].write_text(f"# written by a DHCP client\n{same}")
            assert "10.0.0.7" in await names.addresses("camera.plant")
        assert len(dns.questions) == 2


async def test_a_changed_file_is_used_even_if_another_file_could_not_be_read_in_between(tmp_path):
    async with resolving(tmp_path, CAMERA, servers="nameserver 127.0.0.1\n") as (dns, names):
        assert "does not exist" in await error_for(names, "camera")
        dns.files["resolv.conf"].write_text("nameserver 127.0.0.1\nsearch plant\n")
        dns.files["nsswitch.conf"].unlink()
        dns.files["nsswitch.conf"].mkdir()
        with pytest.raises(IsADirectoryError):
            await names.addresses("camera")
        dns.files["nsswitch.conf"].rmdir()
        assert "10.0.0.7" in await names.addresses("camera")


async def test_a_name_in_the_hosts_file_is_found_while_other_files_cannot_be_read(tmp_path):
    async with resolving(tmp_path, CAMERA, hosts="10.0.0.5 press\n") as (dns, names):
        dns.files["resolv.conf"].unlink()
        dns.files["resolv.conf"].mkdir()
        assert await names.addresses("press") == ("10.0.0.5",)
        with pytest.raises(IsADirectoryError):
            await names.addresses("camera.plant")


async def test_a_hosts_file_that_is_a_fifo_is_an_error(tmp_path):
    async with resolving(tmp_path, CAMERA) as (dns, names):
        dns.files["hosts"].unlink()
        os.mkfifo(dns.files["hosts"])
        with pytest.raises(OSError, match="FIFO"):
            await names.addresses("camera.plant")


# --- the C library --------------------------------------------------------------------------------

SOURCES = "hosts: files mdns4_minimal [ NOTFOUND=return UNAVAIL=continue ] dns myhostname\n"


@pytest.fixture
def library(monkeypatch):
    """A fake getaddrinfo of the C library. Yields a dictionary with its results by name.

    A result is an address, or an error to raise. With None, the call waits until the test ends.
    """
    results, end = {"printer.local": "10.0.0.3", "gateway": "10.0.0.4"}, threading.Event()

    def getaddrinfo(name, port, **options):
        if name in results and results[name] is None:
            end.wait(60)
        if isinstance(results.get(name), OSError):
            raise results[name]
        if results.get(name) is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (results[name], 0))]

    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo",
        lambda name, *a, **k: (real if name[:1].isdigit() else getaddrinfo)(name, *a, **k),
    )  # fmt: skip
    yield results
    end.set()


async def test_the_c_library_is_asked_if_nsswitch_conf_has_other_sources(tmp_path, library):
    async with resolving(tmp_path, CAMERA, nsswitch=SOURCES) as (dns, names):
        assert await names.addresses("printer.Local") == ("10.0.0.3",)
        assert dns.questions == []  # names that end in .local are not sent to DNS (RFC 6762, 3)
        assert await names.addresses("gateway") == ("10.0.0.4",)
        error = await error_for(names, "nobody")
        assert "according to the C library (mdns4_minimal, myhostname), it does not exist" in error
        assert "10.0.0.7" in await names.addresses("camera.plant")
    async with resolving(tmp_path, CAMERA, nsswitch="hosts: files dns\n") as (_, names):
        assert "according to DNS" in await error_for(names, "printer.local")


async def test_a_lookup_for_which_no_file_descriptor_is_free_raises_oserror(tmp_path, library):
    library["press.local"] = OSError(errno.EMFILE, "Too many open files")
    async with resolving(tmp_path, {}, nsswitch=SOURCES) as (_, names):
        with pytest.raises(OSError, match="Too many") as caught:  # so that callers try again later
            await names.addresses("press.local")
        assert caught.value.errno == errno.EMFILE
        library["press.local"] = "10.0.0.5"
        assert await names.addresses("press.local") == ("10.0.0.5",)


async def test_the_error_of_the_c_library_for_sources_that_are_not_installed_is_shown(
    tmp_path, library
):
    library["press.local"] = OSError(errno.EBUSY, "Device or resource busy")  # as glibc
    async with resolving(tmp_path, {}, nsswitch=SOURCES) as (_, names):
        error = "press.local did not resolve: the C library (mdns4_minimal, myhostname): Device or"
        assert error in await error_for(names, "press.local")


async def test_the_error_says_that_no_thread_could_be_started(tmp_path, monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")  # as Python

    async with resolving(tmp_path, CAMERA, nsswitch=SOURCES) as (_, names):
        monkeypatch.setattr(threading.Thread, "start", start)
        assert "myhostname): can't start new thread" in await error_for(names, "press.local")
        assert "10.0.0.7" in await names.addresses("camera.plant")


async def test_a_c_library_that_does_not_answer_does_not_delay_dns(tmp_path, library):
    silent = {f"silent{n}.local": None for n in range(nss.MAX_THREADS)}
    library.update(silent)
    async with resolving(tmp_path, CAMERA, nsswitch=SOURCES) as (_, names):
        lookups = [asyncio.create_task(names.addresses(name)) for name in silent]
        await asyncio.sleep(0)
        assert "10.0.0.7" in await names.addresses("camera.plant")
        assert "16 other names already" in await error_for(names, "printer.local")
        assert not any(each.done() for each in lookups)
        for each in lookups:
            each.cancel()


async def test_twelve_unanswered_names_of_the_c_library_do_not_delay_another_name(
    tmp_path, library
):
    """For example, a name has no answer while its machine is switched off."""
    silent = {f"silent{n}.local": None for n in range(12)}
    library.update(silent)
    async with resolving(tmp_path, CAMERA, nsswitch=SOURCES) as (_, names):
        lookups = [asyncio.create_task(names.addresses(name)) for name in silent]
        await asyncio.sleep(0)
        assert await names.addresses("printer.local") == ("10.0.0.3",)
        assert not any(each.done() for each in lookups)
        for each in lookups:
            each.cancel()


async def test_the_c_library_is_asked_again_after_the_files_have_changed(tmp_path, library):
    library["silent.local"] = None
    async with resolving(tmp_path, CAMERA, nsswitch=SOURCES) as (dns, names):
        lookup = asyncio.create_task(names.addresses("silent.local"))
        await asyncio.sleep(0.01)
        library["silent.local"] = "10.0.0.6"
        dns.files["resolv.conf"].write_text("nameserver 127.0.0.9\n")
        assert await names.addresses("silent.local") == ("10.0.0.6",)
        assert await lookup == ("10.0.0.6",)


async def _lookups_without_an_answer_of_the_library(folder, library):
    library["silent.local"] = None
    async with resolving(folder, CAMERA, nsswitch=SOURCES) as (_, names):
        for _ in range(nss.MAX_THREADS):
            assert "no answer from the C library" in await error_for(names, "silent.local")
            await asyncio.sleep(TIMEOUT_CACHED_S)
        assert await addresses_in_real_time(names, "printer.local") == ("10.0.0.3",)


def test_an_unanswered_name_has_at_most_one_thread_of_the_c_library(tmp_path, library):
    run_virtual(_lookups_without_an_answer_of_the_library(tmp_path, library))


# --- no answer ----------------------------------------------------------------------------------


async def test_the_error_distinguishes_an_unknown_name_from_a_server_that_fails(tmp_path):
    async with resolving(tmp_path, {"broken.plant": SERVER_FAILURE}) as (dns, names):
        error = await error_for(names, "nobody.plant")
        assert "did not resolve: according to DNS 127.0.0.1, it does not exist" in error
        assert "did not resolve: DNS 127.0.0.1: server failure" in await error_for(
            names, "broken.plant"
        )
        count = len(dns.questions)
        assert "looked up again in 5 s" in await error_for(names, "nobody.plant")
        assert len(dns.questions) == count


async def _lookup_without_an_answer(folder):
    async with resolving(folder, {"silent.plant": SILENT}) as (dns, names):
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        error = await error_for(names, "silent.plant")
        assert error.endswith(
            "silent.plant did not resolve: no answer from DNS 127.0.0.1 within 3 s"
        )
        assert loop.time() - began_s == pytest.approx(3)
        count = len(dns.questions)
        assert count == 4  # two attempts for each kind of address
        assert "looked up again in 30 s" in await error_for(names, "silent.plant")
        assert len(dns.questions) == count
        dns.answers["silent.plant"] = ["10.0.0.6"]
        await asyncio.sleep(TIMEOUT_CACHED_S)
        assert await addresses_in_real_time(names, "silent.plant") == ("10.0.0.6",)


async def addresses_in_real_time(names, name):
    """Look up a name whose answer takes real time: the virtual clock must not advance meanwhile."""
    lookup = asyncio.ensure_future(names.addresses(name))
    while not lookup.done():
        await asyncio.sleep(0)
    return lookup.result()


def test_an_unanswered_name_times_out_after_3_s_and_is_not_asked_again_for_30_s(tmp_path):
    run_virtual(_lookup_without_an_answer(tmp_path))


async def _forty_silent_names(folder):
    async with resolving(folder, silent_names(40)) as (dns, names):
        lookups = [asyncio.create_task(names.addresses(name)) for name in dns.answers]
        await asyncio.sleep(2.9)
        assert len({name for name, _ in dns.questions}) == MAX_LOOKUPS
        assert "32 other names are being looked up" in names.missing_answer("silent39.plant")
        await asyncio.gather(*lookups, return_exceptions=True)
        assert len({name for name, _ in dns.questions}) == 40


def test_at_most_32_lookups_run_at_a_time(tmp_path):
    run_virtual(_forty_silent_names(tmp_path))


async def test_unanswered_names_do_not_delay_other_names(tmp_path):
    answers = {**CAMERA, **silent_names(MAX_LOOKUPS - 1)}
    async with resolving(tmp_path, answers, hosts="10.0.0.8 press\n") as (_, names):
        lookups = [
            asyncio.create_task(names.addresses(name)) for name in silent_names(MAX_LOOKUPS - 1)
        ]
        await asyncio.sleep(0)
        assert "10.0.0.7" in await names.addresses("camera.plant")
        assert await names.addresses("press") == ("10.0.0.8",)
        assert not any(each.done() for each in lookups)
        for each in lookups:
            each.cancel()


async def test_closing_the_resolver_ends_a_lookup_with_an_error(tmp_path):
    async with resolving(tmp_path, {"silent.plant": SILENT}) as (_, names):
        lookup = asyncio.create_task(error_for(names, "silent.plant"))
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
    # str.isdigit accepts "²", but int does not.
    assert read_settings("options ndots:\u00b2") == read_settings("")
    assert read_settings("search .\n").servers == ("127.0.0.1",)


@pytest.mark.parametrize("name", ["a..b", "x" * 64, "x." * 130, "", "straße"])
def test_is_name_rejects_an_invalid_name(name):
    assert not is_name(name)


def test_only_256_records_of_an_answer_are_read():
    query = question(7, "camera.plant", A)
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x1e\0\4"
    records = b"".join(record + n.to_bytes(4, "big") for n in range(4_000))
    answer = read_answer(query[:2] + b"\x81\x80\0\1\x0f\xa0\0\0\0\0" + query[12:] + records, query)
    assert len(answer.addresses) == 256
    answer_with_duplicates = read_answer(
        query[:2] + b"\x81\x80\0\1\0\2\0\0\0\0" + query[12:] + 2 * records[:16], query
    )
    assert answer_with_duplicates.addresses == ("0.0.0.0",)


def test_truncated_and_damaged_answers_raise_no_exception():
    query = question(7, "camera.plant", A)
    whole = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:]
    whole += b"\xc0\x0c\0\1\0\1\0\0\0\x1e\0\4\x0a\0\0\7"
    assert read_answer(whole, query).addresses == ("10.0.0.7",)
    looped = whole[: len(query)] + b"\xc0" + bytes([len(query)]) + whole[len(query) + 2 :]
    assert read_answer(looped, query) is None
    chance = random.Random(1)
    for size in range(len(whole)):
        assert read_answer(whole[:size], query) is None
        broken = bytearray(whole)
        broken[size] = chance.randrange(256)
        read_answer(bytes(broken), query)


def test_reading_a_fifo_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "hosts")
    with pytest.raises(OSError, match="this is a FIFO"):
        WatchedFile(tmp_path / "hosts").read_if_changed()
