"""The names in a client's certificate."""

from __future__ import annotations

from typing import Any

from fractal_rm.domain.address import normalized_host


def names_in(certificate: dict[str, Any] | None) -> list[str]:
    """The host names and IP addresses that a certificate is for (RFC 5280, 4.2.1.6).

    ``certificate`` is the result of `ssl.SSLObject.getpeercert`: None or empty without one.
    """
    names = (certificate or {}).get("subjectAltName", ())
    return [normalized_host(value) for kind, value in names if kind in ("DNS", "IP Address")]
