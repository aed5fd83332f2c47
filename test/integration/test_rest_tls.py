"""The REST interface over TLS: certificates, their renewal, and what is said of wrong ones."""

from __future__ import annotations

import asyncio
import ssl
from datetime import datetime, timezone
from pathlib import Path

import pytest
import trustme

from engine_stage import QuietTelemetry
from fractal_rm.config.model import Rest
from fractal_rm.domain.call import Tls
from fractal_rm.web.listening import CannotListen
from nodes import HOST
from ports import free_port
from rest_services import make_service


class Certificates:
    """A certificate authority, and the files of a server."""

    def __init__(self, folder) -> None:
        self.authority = trustme.CA()
        self.tls = Tls(str(folder / "ca.pem"), str(folder / "cert.pem"), str(folder / "key.pem"))
        self.authority.cert_pem.write_to_path(self.tls.ca)
        self.issue("127.0.0.1")

    def issue(self, name: str) -> None:
        """Write a certificate for a name into the files of the server."""
        issued = self.authority.issue_cert(name)
        issued.private_key_pem.write_to_path(self.tls.key)
        issued.cert_chain_pems[0].write_to_path(self.tls.cert)

    def client(self, name: str | None = None) -> ssl.SSLContext:
        """A client that trusts the authority, and has a certificate for ``name``."""
        context = ssl.create_default_context(cafile=self.tls.ca)
        context.check_hostname = False
        if name is not None:
            self.authority.issue_cert(name).configure_cert(context)
        return context


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path)


async def request(port: int, context: ssl.SSLContext | None, path: str = "/v1/flows"):
    """Send a GET. Returns the status line, and the names in the certificate of the server."""
    reader, writer = await asyncio.open_connection(HOST, port, ssl=context)
    try:
        names = (writer.get_extra_info("peercert") or {}).get("subjectAltName")
        head = b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path.encode()
        writer.write(head)
        answer = await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()
    return answer.split(b"\r\n")[0], names


async def test_requests_are_served_over_tls_only(certificates):
    service = make_service(Rest(port=free_port(), tls=certificates.tls))
    await service.start()
    port = service.listeners.port
    status, _ = await request(port, certificates.client())
    assert status == b"HTTP/1.1 200 OK"
    assert service.status().text.startswith("https://")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError, OSError, AssertionError)):
        assert await request(port, None) != (b"", None)
    await service.stop()


async def test_a_renewed_certificate_is_used_at_the_next_handshake(certificates):
    service = make_service(Rest(port=free_port(), tls=certificates.tls))
    await service.start()
    port = service.listeners.port
    assert (await request(port, certificates.client()))[1] == (("IP Address", "127.0.0.1"),)
    certificates.issue("node-2.example")
    assert (await request(port, certificates.client()))[1] == (("DNS", "node-2.example"),)
    await service.stop()


async def test_while_new_files_cannot_be_used_the_old_certificate_stays_in_use(certificates):
    telemetry = QuietTelemetry()
    service = make_service(Rest(port=free_port(), tls=certificates.tls), telemetry=telemetry)
    await service.start()
    Path(certificates.tls.cert).write_text("no certificate")
    for _ in range(2):
        status, names = await request(service.listeners.port, certificates.client())
        assert (status, names) == (b"HTTP/1.1 200 OK", (("IP Address", "127.0.0.1"),))
    assert telemetry.events.count("certificate_not_renewed") == 1
    certificates.issue("node-2.example")
    assert (await request(service.listeners.port, certificates.client()))[1] is not None
    await service.stop()


@pytest.mark.parametrize("fault", ["expired", "not yet valid", "of another authority"])
async def test_a_client_certificate_that_is_expired_or_of_another_authority_is_refused(
    certificates, fault
):
    service = make_service(Rest(port=free_port(), tls=certificates.tls))
    await service.start()
    authority, years = certificates.authority, (2020, 2090)
    if fault == "expired":
        years = (2001, 2002)
    elif fault == "not yet valid":
        years = (2088, 2090)
    else:
        authority = trustme.CA()
    begin, end = (datetime(year, 1, 1, tzinfo=timezone.utc) for year in years)
    context = certificates.client()
    issued = authority.issue_cert("node-2.example", not_before=begin, not_after=end)
    issued.configure_cert(context)
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        # The server may close the connection before the client reads the reason.
        assert (await request(service.listeners.port, context))[0] != b""
    assert (await request(service.listeners.port, certificates.client()))[0].endswith(b" 200 OK")
    await service.stop()


@pytest.mark.parametrize("broken", ["ca", "cert", "key"])
async def test_a_service_with_wrong_files_does_not_start_and_names_the_file(certificates, broken):
    Path(getattr(certificates.tls, broken)).write_text("nonsense")
    service = make_service(Rest(port=free_port(), tls=certificates.tls))
    with pytest.raises(CannotListen, match=f"rest.tls in comm.conf cannot be used: .*{broken}"):
        await service.start()


async def test_a_refused_request_is_answered_over_tls_while_the_client_still_sends(certificates):
    service = make_service(Rest(port=free_port(), tls=certificates.tls))
    await service.start()
    reader, writer = await asyncio.open_connection(
        HOST, service.listeners.port, ssl=certificates.client()
    )
    writer.write(b"POST /startrm HTTP/1.1\r\nHost: evil\r\nContent-Length: 1000000\r\n\r\n")
    writer.write(b"x" * 100_000)
    answer = await asyncio.wait_for(reader.read(), 30)
    assert answer.startswith(b"HTTP/1.1 421 ")
    writer.close()
    await service.stop()


async def test_tls_can_be_switched_on_and_off_while_the_node_runs(certificates):
    port = free_port()
    plain = make_service(Rest(port=port))
    await plain.start()
    encrypted = make_service(Rest(port=port, tls=certificates.tls))
    await encrypted.start(plain)
    assert (await request(port, certificates.client()))[0] == b"HTTP/1.1 200 OK"
    again = make_service(Rest(port=port))
    await again.start(encrypted)
    assert (await request(port, None))[0] == b"HTTP/1.1 200 OK"
    await again.stop()
