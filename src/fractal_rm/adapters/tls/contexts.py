"""TLS contexts: one for each set of files, replaced when one of the files changes."""

from __future__ import annotations

import codecs
import ssl

from fractal_rm.adapters.tls.certificates import client_context, files_of
from fractal_rm.config.regular_file import Version, versions_of
from fractal_rm.domain.call import Tls
from fractal_rm.domain.call_errors import ConnectFailed
from fractal_rm.domain.descriptors import is_out_of_descriptors


class TlsContexts:
    """A cache of TLS contexts for clients.

    Each call checks the files, because certificates are renewed while a node runs.
    """

    def __init__(self) -> None:
        self._contexts: dict[Tls, tuple[list[Version], ssl.SSLContext]] = {}

    def context(self, tls: Tls | None) -> ssl.SSLContext:
        """The context of a client with the files of ``tls``.

        If ``tls`` is None, the client trusts the authorities of the system. Raises ConnectFailed
        if the files are unusable, and OSError if no file descriptor is free.
        """
        tls = tls or Tls()
        try:
            versions = versions_of(files_of(tls))
            cached = self._contexts.get(tls)
            if cached is None or cached[0] != versions:
                _ = codecs.lookup("idna")  # load the codec with which TLS encodes host names
                cached = self._contexts[tls] = versions, client_context(tls)
        except OSError as error:
            if is_out_of_descriptors(error):
                raise
            raise ConnectFailed(f"a file for TLS cannot be read: {error}") from error
        return cached[1]
