"""TLS contexts, made once for each set of files and made anew when a file is replaced."""

from __future__ import annotations

import ssl
from pathlib import Path

from fractal_rm.adapters.connect.certificates import tls_context
from fractal_rm.adapters.connect.descriptors import NONE_LEFT
from fractal_rm.config.regular_file import stat_regular
from fractal_rm.domain.call import Tls
from fractal_rm.domain.errors import ConnectFailed


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
                known = self._contexts[tls] = times, tls_context(tls)
        except OSError as error:
            if error.errno in NONE_LEFT:
                raise
            raise ConnectFailed(f"TLS files: {error}") from error
        return known[1]
