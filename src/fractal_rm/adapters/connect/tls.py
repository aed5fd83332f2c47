"""TLS contexts, made once for each set of files and made anew when one of them has changed."""

from __future__ import annotations

import codecs
import ssl

from fractal_rm.adapters.connect.certificates import files_of, tls_context
from fractal_rm.config.regular_file import Version, stat_regular, version_of
from fractal_rm.domain.call import Tls
from fractal_rm.domain.call_errors import ConnectFailed
from fractal_rm.domain.none_left import none_left


class TlsContexts:
    """Certificates are renewed while a node runs: each new connection looks whether one was."""

    def __init__(self) -> None:
        self._contexts: dict[Tls, tuple[list[Version], ssl.SSLContext]] = {}

    def context(self, tls: Tls | None) -> ssl.SSLContext:
        """The context for ``tls``.

        Raises ConnectFailed where its files are unusable, OSError where no descriptor is left.
        """
        tls = tls or Tls()
        try:
            versions = [version_of(stat_regular(path)) for path in files_of(tls)]
            known = self._contexts.get(tls)
            if known is None or known[0] != versions:
                _ = codecs.lookup("idna")  # in which TLS names a host: loaded at its first use
                known = self._contexts[tls] = versions, tls_context(tls)
        except OSError as error:
            if none_left(error):
                raise
            raise ConnectFailed(f"TLS files: {error}") from error
        return known[1]
