"""A TLS server that demands a client certificate and refuses clients without one."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager, suppress

import trustme

from ports import free_port, port_of


@contextmanager
def client_certificate_server(folder, version=ssl.TLSVersion.TLSv1_3):
    """Run the server. ``version`` is the newest TLS version that the server supports.

    Yields the port on 127.0.0.1, and the path of the CA certificate.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with socket.create_server(("127.0.0.1", free_port())) as listening:
        threading.Thread(target=_refuse, args=(listening, context), daemon=True).start()
        try:
            yield port_of(listening), str(folder / "ca.pem")
        finally:
            listening.shutdown(socket.SHUT_RDWR)  # accept fails, which ends the thread


def _refuse(listening: socket.socket, context: ssl.SSLContext) -> None:
    with suppress(OSError):  # raised by accept at the end of the test
        while True:
            plain, _ = listening.accept()
            tls = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            with suppress(ssl.SSLError):
                tls.do_handshake()
            with socket.socket(fileno=tls.detach()) as plain, suppress(ConnectionError):
                plain.shutdown(socket.SHUT_WR)
                # Read all data, because unread data would cause a reset, which could overtake the
                # TLS alert.
                while plain.recv(4096):
                    pass
