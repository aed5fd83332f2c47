"""TLS contexts, made once for each set of files and made anew when a file is replaced."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NoReturn

from fractal_rm.adapters.connect.descriptors import NONE_LEFT
from fractal_rm.config.regular_file import stat_regular
from fractal_rm.domain.call import Tls
from fractal_rm.domain.errors import ConnectFailed
from fractal_rm.domain.pem import passphrase_words


class TlsContexts:
    """Certificates are renewed while a node runs: each new connection looks at the files' times."""

    def __init__(self) -> None:
        self._contexts: dict[Tls, tuple[tuple[int, ...], ssl.SSLContext]] = {}

    def context(self, tls: Tls | None) -> ssl.SSLContext:
        """The context for ``tls``.

        Raises ConnectFailed where its files are unusable, OSError where no descriptor is left.
        """
        tls = tls or Tls()
        try:
            paths = [Path(path) for path in (tls.ca, tls.cert, tls.key) if path]
            times = tuple(stat_regular(path).st_mtime_ns for path in paths)
            known = self._contexts.get(tls)
            if known is None or known[0] != times:
                known = self._contexts[tls] = times, _make(tls)
        except OSError as error:  # ssl.SSLError is one
            if error.errno in NONE_LEFT:
                raise
            raise ConnectFailed(f"TLS files: {error}") from error
        return known[1]


def _make(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key, lambda: _refuse_passphrase(tls))
    return context


def _refuse_passphrase(tls: Tls) -> NoReturn:
    """OpenSSL would ask on the terminal, and the whole node would wait for somebody to type."""
    raise ConnectFailed(passphrase_words(tls.key or tls.cert or ""))
