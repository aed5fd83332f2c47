"""Loads and checks PEM files for TLS with OpenSSL. Only a configuration with TLS needs this module.

Errors name the wrong file.
"""

from __future__ import annotations

import ssl
from typing import NoReturn

from fractal_rm.domain.call_errors import ConnectFailed
from fractal_rm.domain.certificate import to_pem
from fractal_rm.domain.pem import encrypted_key_error

# The reasons that OpenSSL gives if key and certificate do not match or have different types.
_MISMATCH = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})
_NO_CERTIFICATE = "NO_CERTIFICATE_OR_CRL_FOUND"
_TOO_WEAK = frozenset({"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: dates have their own findings
_HANDSHAKE_ROUNDS = 10


def default_context(ca: str | None, purpose: ssl.Purpose) -> ssl.SSLContext:
    """Make a context with the authorities in the file ``ca``. Raises ConnectFailed, OSError.

    ``purpose`` is ``SERVER_AUTH`` for a client, and ``CLIENT_AUTH`` for a server.
    """
    try:
        return ssl.create_default_context(purpose, cafile=ca)
    except ssl.SSLError as error:
        text = "contains no certificate in PEM form that OpenSSL can read"
        if error.reason != _NO_CERTIFICATE:
            text = "contains a certificate that OpenSSL cannot read"
        raise ConnectFailed(f"{ca} {text}") from error


def load_own_certificate(context: ssl.SSLContext, cert: str, key: str) -> None:
    """Load a certificate and its key. Raises ConnectFailed, with the file that is wrong."""

    def refuse_passphrase() -> NoReturn:
        """Raise an error. Otherwise OpenSSL would wait for a passphrase from the terminal."""
        raise ConnectFailed(encrypted_key_error(key))

    try:
        context.load_cert_chain(cert, key, refuse_passphrase)
    except ssl.SSLError as error:
        if error.reason in _MISMATCH:
            text = f"the key in {key} does not match the first certificate in {cert}"
        elif error.reason in _TOO_WEAK:
            text = f"the certificate in {cert} is too weak for this OpenSSL ({error.reason})"
        else:
            default_context(
                cert, ssl.Purpose.SERVER_AUTH
            )  # raises an error if the certificate cannot be read
            text = f"{key} contains no private key in PEM form that OpenSSL can read"
        raise ConnectFailed(text) from error


def signature_fault(cert: str, key: str, issuers: list[bytes], *, is_server: bool) -> str | None:
    """Why OpenSSL does not accept the chain in ``cert``; None if it accepts it.

    ``issuers`` are the further certificates of the file, in DER. Only the last one is trusted, so
    each signature of the chain is checked. If there are none, only the key is checked.
    ``is_server``: whether a server uses the certificate. Makes a TLS handshake in memory. Raises
    ConnectFailed if a file cannot be used.
    """
    server, client = (
        ssl.SSLContext(each) for each in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)
    )
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    load_own_certificate(server, cert, key)
    if not issuers:
        return None
    verifier = client
    if not is_server:
        load_own_certificate(client, cert, key)
        verifier = server
    verifier.verify_mode = ssl.CERT_REQUIRED
    verifier.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    verifier.load_verify_locations(cadata=to_pem(issuers[-1:]))
    try:
        _shake_hands(server, client)
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    return None


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(_HANDSHAKE_ROUNDS):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:  # noqa: PERF203 - few
                continue
