"""HTTP/1.1 calls over TLS: certificates, certificate authorities, keys, and refused handshakes."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
from datetime import datetime, timezone

import pytest
import trustme
import uvloop
from test_descriptors import limit_free_descriptors

from client_certificates import client_certificate_server
from fractal_rm.domain.call import Origin, Tls, route
from fractal_rm.domain.call_errors import CallFailed, ConnectFailed
from keys import encrypted_key, weak_key
from ports import free_port, port_of
from scripted_server import calling, serving, to


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def tls_server(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


async def test_an_authority_is_trusted_only_in_calls_for_which_it_is_configured(
    authority, tls_server, tmp_path
):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with serving(tls=tls_server) as server, calling() as caller:
        with_ca = to(server, protocol="https", tls=Tls(ca=str(tmp_path / "ca.pem")))
        assert (await caller.call(with_ca)).body == b"ok"
        with pytest.raises(ConnectFailed, match="not trusted"):
            await caller.call(to(server, protocol="https"))


@pytest.mark.parametrize(
    ("validity", "reason"),
    [(((2090, 1, 1), (2091, 1, 1)), "not yet valid"), (((2001, 1, 1), (2002, 1, 1)), "expired")],
)
async def test_the_error_shows_the_time_of_this_machine_if_a_certificate_is_not_valid_now(
    authority, tmp_path, validity, reason
):
    first, last = (datetime(*day, tzinfo=timezone.utc) for day in validity)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", not_before=first, not_after=last).configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with serving(tls=context) as server, calling() as caller:
        with_ca = to(server, protocol="https", tls=Tls(ca=str(tmp_path / "ca.pem")))
        clock = r"\(the clock of this machine is at 20\d\d-"
        with pytest.raises(ConnectFailed, match=f"{reason} {clock}"):
            await caller.call(with_ca)


async def test_a_certificate_for_another_name_is_refused(authority, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("camera.example").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with serving(tls=context) as server, calling() as caller:
        with_ca = to(server, protocol="https", tls=Tls(ca=str(tmp_path / "ca.pem")))
        with pytest.raises(ConnectFailed, match="not trusted"):
            await caller.call(with_ca)


async def test_the_server_name_is_sent_and_compared_with_the_certificate(authority, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("camera.example").configure_cert(context)
    sent: list[str] = []
    context.sni_callback = lambda _, name, __: sent.append(name)
    ca = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(ca)
    async with serving(tls=context) as server, calling() as caller:
        named = to(server, protocol="https", tls=Tls(ca=ca, server_name="camera.example"))
        assert (await caller.call(named)).body == b"ok"
        assert sent == ["camera.example"]
        for name in ("other.example", None):  # None: the address of the server
            wrong = to(server, protocol="https", tls=Tls(ca=ca, server_name=name))
            with pytest.raises(ConnectFailed, match="not trusted"):
                await caller.call(wrong)
        assert sent == ["camera.example", "other.example", None]


async def test_the_client_certificate_is_sent_to_a_server_that_asks_for_it(
    authority, tls_server, tmp_path
):
    tls_server.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(tls_server)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = authority.issue_cert("node-1")
    client.private_key_pem.write_to_path(tmp_path / "key.pem")
    client.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    paths = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")}
    async with serving(tls=tls_server) as server, calling() as caller:
        reply = await caller.call(to(server, protocol="https", tls=Tls(**paths)))
        assert reply.body == b"ok"


async def _call_error(port, tls):
    async with calling() as caller:
        with pytest.raises(CallFailed) as caught:
            await caller.call(route(Origin("https", "127.0.0.1", port, tls), "GET", "/x"))
    return str(caught.value)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_error_says_that_a_server_asks_for_a_certificate(tmp_path, version, run):
    with client_certificate_server(tmp_path, version) as (port, ca):
        assert "the server asks for a certificate" in run(_call_error(port, Tls(ca=ca)))


async def _error_from(handle):
    listening = await asyncio.start_server(handle, "127.0.0.1", free_port())
    try:
        return await _call_error(port_of(listening), None)
    finally:
        listening.close()


async def _answer_without_tls(reader, writer):
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_the_error_says_that_a_server_has_no_tls_or_closed_the_connection(run):
    assert "the server does not speak TLS (" in run(_error_from(_answer_without_tls))
    assert "the server closed the connection" in run(_error_from(lambda _, writer: writer.close()))


async def _close_after_a_byte(reader, writer):
    await reader.read(1)
    writer.close()


async def _error_if_closed_after(turns):
    """The error of a call. ``turns`` turns of the loop after its connection opened, it is closed.

    Asserts that the event loop logs no error.
    """
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    def close(transport, turns_left):
        if turns_left:
            loop.call_soon(close, transport, turns_left - 1)
        elif transport.is_reading():  # if not, asyncio would not notice the end
            transport.abort()

    async def connect_and_close(*arguments):
        transport, protocol = await connect(*arguments)
        close(transport, turns)
        return transport, protocol

    loop.create_connection = connect_and_close
    logged = []
    loop.set_exception_handler(lambda _, context: logged.append(context))
    reason = await _error_from(_close_after_a_byte)
    assert logged == []
    return reason


@pytest.mark.parametrize("turns", range(5))
def test_the_error_says_that_the_server_closed_the_connection_before_the_handshake(turns):
    assert "the server closed the connection" in uvloop.run(_error_if_closed_after(turns))


async def test_the_authorities_of_the_system_are_read_again_after_a_change(
    authority, tls_server, tmp_path, monkeypatch
):
    standard = tmp_path / "standard.pem"
    trustme.CA().cert_pem.write_to_path(standard)
    monkeypatch.setenv("SSL_CERT_FILE", str(standard))
    async with serving(tls=tls_server) as server, calling() as caller:
        get = to(server, protocol="https")
        with pytest.raises(ConnectFailed, match="not trusted"):
            await caller.call(get)
        stat_before = standard.stat()
        authority.cert_pem.write_to_path(standard)
        # Restore the modification time, as cp -p and tar do.
        os.utime(standard, ns=(stat_before.st_atime_ns, stat_before.st_mtime_ns))
        assert (await caller.call(get)).body == b"ok"


async def test_certificate_authorities_in_a_folder_need_no_descriptor_during_the_handshake(
    authority, tls_server, tmp_path, monkeypatch
):
    authority.cert_pem.write_to_path(tmp_path / "own.pem")
    subprocess.run(["openssl", "rehash", tmp_path], check=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'none'}:{tmp_path}")
    async with serving(tls=tls_server) as server, calling() as caller:
        with limit_free_descriptors(2):  # one for each end of the connection
            assert (await caller.call(to(server, protocol="https"))).body == b"ok"


async def test_the_error_names_a_missing_tls_file(tmp_path):
    async with serving() as server, calling() as caller:
        missing = to(server, protocol="https", tls=Tls(ca=str(tmp_path / "none.pem")))
        with pytest.raises(ConnectFailed, match=r"none\.pem"):
            await caller.call(missing)


@pytest.mark.parametrize("form", ["pkcs8", "traditional", "with its certificate"])
async def test_an_encrypted_key_is_an_error(form, tls_server, tmp_path):
    cert, key = encrypted_key(tmp_path, form)
    async with serving(tls=tls_server) as server, calling() as caller:
        get = to(server, protocol="https", tls=Tls(cert=str(cert), key=key and str(key)))
        with pytest.raises(ConnectFailed, match=f"the key file {key or cert} is encrypted: the"):
            await caller.call(get)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("key", r"key\.pem contains no private key in PEM"),
        ("cert", r"cert\.pem contains no certificate in PEM"),
        ("ca", r"ca\.pem contains no certificate in PEM"),
        ("another", r"key\.pem does not match the first certificate in .*cert\.pem"),
        ("broken", r"ca\.pem contains a certificate that OpenSSL cannot read"),
        ("weak", r"the certificate in .*cert\.pem is too weak for this OpenSSL \(EE_KEY_TOO_SMALL"),
    ],
)
async def test_the_error_names_a_tls_file_with_wrong_content(authority, tmp_path, fault, reason):
    paths = {each: tmp_path / f"{each}.pem" for each in ("ca", "cert", "key")}
    certificate, other_certificate = authority.issue_cert("node-1"), authority.issue_cert("node-2")
    authority.cert_pem.write_to_path(paths["ca"])
    certificate.cert_chain_pems[0].write_to_path(paths["cert"])
    key_owner = other_certificate if fault == "another" else certificate
    key_owner.private_key_pem.write_to_path(paths["key"])
    if fault == "weak":
        weak_key(paths["key"], paths["cert"])
    if fault == "broken":
        paths["ca"].write_text(f"{paths['ca'].read_text()}-----BEGIN CERTIFICATE-----\n")
    if fault in paths:
        paths[fault].write_bytes(b"\x30\x82")  # the beginning of DER
    async with serving() as server, calling() as caller:
        tls = Tls(**{each: str(path) for each, path in paths.items()})
        with pytest.raises(ConnectFailed, match=reason):
            await caller.call(to(server, protocol="https", tls=tls))
