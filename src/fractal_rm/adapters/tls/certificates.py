"""Makes TLS contexts from the files that a configuration names. Errors name the wrong file."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from fractal_rm.config.regular_file import stat_regular
from fractal_rm.config.tls_files import default_context, load_own_certificate
from fractal_rm.domain.call import Tls
from fractal_rm.domain.descriptors import is_out_of_descriptors

_HASH_NAME = re.compile("[0-9a-f]{8}\\.[0-9]+")  # OpenSSL loads only files with such names


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
