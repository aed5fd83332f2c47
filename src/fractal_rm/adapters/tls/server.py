"""The TLS context of a server, which takes up renewed certificates without a restart."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typing_extensions import Self

from fractal_rm.config.regular_file import Version, versions_of
from fractal_rm.config.tls_files import default_context, load_own_certificate
from fractal_rm.domain.call import Tls
from fractal_rm.domain.call_errors import ConnectFailed


class ServerContext(ssl.SSLContext):
    """A context that uses the files as they are at the time of each handshake.

    asyncio keeps one context for a listening socket, and calls `wrap_bio` for each connection.
    While the new files cannot be used, the old certificate stays in use, and ``on_problem`` is
    called once with the reason.
    """

    _tls: Tls
    _on_problem: Callable[[str], None]
    _versions: list[Version]
    _current: ssl.SSLContext
    _last_problem: str | None

    def __new__(cls, tls: Tls, on_problem: Callable[[str], None]) -> Self:  # noqa: ARG004
        """Make the object; its own settings are never used."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, tls: Tls, on_problem: Callable[[str], None]) -> None:
        """``tls.cert`` must be set. Raises ConnectFailed, OSError if the files cannot be used."""
        self._tls = tls
        self._on_problem = on_problem
        self._last_problem = None
        self._versions = _versions_of(tls)
        self._current = _server_context(tls)

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Begin the handshake of a connection with the current files."""
        self._renew_if_changed()
        return self._current.wrap_bio(*args, **options)

    def _renew_if_changed(self) -> None:
        try:
            versions = _versions_of(self._tls)
            if versions != self._versions:
                self._current = _server_context(self._tls)
                self._versions = versions
        except (ConnectFailed, OSError) as error:
            if str(error) != self._last_problem:
                self._on_problem(str(error))
            self._last_problem = str(error)
        else:
            self._last_problem = None


def _versions_of(tls: Tls) -> list[Version]:
    return versions_of(Path(path) for path in (tls.ca, tls.cert, tls.key) if path)


def _server_context(tls: Tls) -> ssl.SSLContext:
    """Make a context. With ``tls.ca``, clients may send a certificate of this authority."""
    context = default_context(tls.ca, ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    cert = tls.cert or ""
    load_own_certificate(context, cert, tls.key or cert)
    if tls.ca:
        context.verify_mode = ssl.CERT_OPTIONAL
    return context
