"""Makes TLS contexts from the files that a configuration names. Errors name the wrong file."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from fractal_rm.config.regular_file import stat_regular
from fractal_rm.domain.call import Tls
from fractal_rm.domain.call_errors import ConnectFailed
from fractal_rm.domain.descriptors import is_out_of_descriptors
from fractal_rm.domain.pem import encrypted_key_error

# The reasons that OpenSSL gives if key and certificate do not match or have different types.
_MISMATCH = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})
_HASH_NAME = re.compile("[0-9a-f]{8}\\.[0-9]+")  # OpenSSL loads only files with such names
_NO_CERTIFICATE = "NO_CERTIFICATE_OR_CRL_FOUND"
_TOO_WEAK = frozenset({"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})


def files_of(tls: Tls) -> list[Path]:
    """The files of a context. If ``tls.ca`` is None, one is the system's file of authorities."""
    ca = tls.ca or ssl.get_default_verify_paths().cafile
    return [Path(path) for path in (ca, tls.cert, tls.key) if path]


def client_context(tls: Tls) -> ssl.SSLContext:
    """Make the context of a client.

    Raises ConnectFailed if the content of a file is wrong, and OSError if a file cannot be read.
    """
    for path in files_of(tls):
        stat_regular(path)  # raises OSError for a FIFO, because OpenSSL would block in reading it
    context = _context_with_authorities(tls.ca)
    if tls.cert:
        load_own_certificate(context, tls.cert, tls.key or tls.cert)
    return context


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


def _context_with_authorities(ca: str | None) -> ssl.SSLContext:
    standard = ssl.get_default_verify_paths()
    if ca is None and standard.cafile:
        # This raises OSError if no descriptor is free. In that case OpenSSL would load no
        # authorities and report no error.
        os.close(os.open(standard.cafile, os.O_RDONLY | os.O_CLOEXEC))
    context = default_context(ca, ssl.Purpose.SERVER_AUTH)
    if ca is None and not standard.cafile:
        folders = os.environ.get(standard.openssl_capath_env, standard.openssl_capath)
        _load_folders(context, folders.split(os.pathsep))
    return context


def _load_folders(context: ssl.SSLContext, folders: Iterable[str]) -> None:
    """Load the authorities from folders that openssl-rehash(1) has prepared.

    Otherwise OpenSSL would load them during a handshake. If no descriptor were free at that time,
    it would find no authorities and refuse the server. Files that are added to the folders later
    are still loaded during a handshake.
    """
    for folder in folders:
        paths: list[Path] = []
        with _skip_unreadable():
            paths += (path for path in Path(folder).iterdir() if _HASH_NAME.fullmatch(path.name))
        for path in paths:
            with _skip_unreadable():
                stat_regular(path)
                context.load_verify_locations(str(path))


@contextmanager
def _skip_unreadable() -> Generator[None]:
    """Ignore unreadable files, as OpenSSL does. Raises OSError if no file descriptor is free."""
    try:
        yield
    except ssl.SSLError:  # a subclass of OSError, but its errno is a code of OpenSSL
        return
    except OSError as error:
        if is_out_of_descriptors(error):
            raise


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
            _context_with_authorities(cert)  # raises an error if the certificate cannot be read
            text = f"{key} contains no private key in PEM form that OpenSSL can read"
        raise ConnectFailed(text) from error
