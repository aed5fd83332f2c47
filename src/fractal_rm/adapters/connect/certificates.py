"""TLS contexts from the files of a configuration; what is wrong with a file is said in words."""

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
from fractal_rm.domain.none_left import none_left
from fractal_rm.domain.pem import passphrase_words

# OpenSSL's reasons: another key, or one of another kind.
_NO_PAIR = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})
_HASHED = re.compile("[0-9a-f]{8}\\.[0-9]+")  # the name that OpenSSL looks for
_NONE_FOUND = "NO_CERTIFICATE_OR_CRL_FOUND"
_TOO_WEAK = frozenset({"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})


def files_of(tls: Tls) -> list[Path]:
    """What a context is made of; where ``tls`` names no authorities, the system's."""
    ca = tls.ca or ssl.get_default_verify_paths().cafile
    return [Path(path) for path in (ca, tls.cert, tls.key) if path]


def tls_context(tls: Tls) -> ssl.SSLContext:
    """The context of a client.

    Raises ConnectFailed where a file holds the wrong thing, OSError where one cannot be read.
    """
    for path in files_of(tls):
        stat_regular(path)  # OpenSSL would wait for who writes into a FIFO
    context = _trusting(tls.ca)
    if tls.cert:
        _show(context, tls.cert, tls.key or tls.cert)
    return context


def _trusting(ca: str | None) -> ssl.SSLContext:
    standard = ssl.get_default_verify_paths()
    if ca is None and standard.cafile:  # OpenSSL trusts nobody, in silence, without a descriptor
        os.close(os.open(standard.cafile, os.O_RDONLY | os.O_CLOEXEC))
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        why = "holds no certificate in PEM form that OpenSSL can read"
        if error.reason != _NONE_FOUND:
            why = "holds a certificate that OpenSSL cannot read"
        raise ConnectFailed(f"{ca} {why}") from error
    if ca is None and not standard.cafile:
        folders = os.environ.get(standard.openssl_capath_env, standard.openssl_capath)
        _trust_folders(context, folders.split(os.pathsep))
    return context


def _trust_folders(context: ssl.SSLContext, folders: Iterable[str]) -> None:
    """Read the authorities of folders now (openssl-rehash(1)).

    OpenSSL would look for one in the middle of a handshake, where no descriptor may be free, and
    trust nobody then. It does so for those that come later.
    """
    for folder in folders:
        paths: list[Path] = []
        with _passed_over():
            paths += (path for path in Path(folder).iterdir() if _HASHED.fullmatch(path.name))
        for path in paths:
            with _passed_over():
                stat_regular(path)
                context.load_verify_locations(str(path))


@contextmanager
def _passed_over() -> Generator[None]:
    """What cannot be read is, as by OpenSSL. Raises OSError where no descriptor is free."""
    try:
        yield
    except ssl.SSLError:  # an OSError whose number is OpenSSL's
        return
    except OSError as error:
        if none_left(error):
            raise


def _show(context: ssl.SSLContext, cert: str, key: str) -> None:
    def refuse_passphrase() -> NoReturn:
        """OpenSSL would ask on the terminal, and the node would wait for somebody to type."""
        raise ConnectFailed(passphrase_words(key))

    try:
        context.load_cert_chain(cert, key, refuse_passphrase)
    except ssl.SSLError as error:
        if error.reason in _NO_PAIR:
            why = f"the key in {key} is not the one of the first certificate in {cert}"
        elif error.reason in _TOO_WEAK:
            why = f"the certificate in {cert} is too weak for OpenSSL here ({error.reason})"
        else:
            _trusting(cert)  # raises where that is the one at fault
            why = f"{key} holds no private key in PEM form that OpenSSL can read"
        raise ConnectFailed(why) from error
