"""Why a certificate is not trusted, in words."""

from __future__ import annotations

import ssl
from datetime import datetime, timezone

from fractal_rm.adapters.clock import SystemClock

_BY_TIME = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED (openssl verify)


def why_not_trusted(error: ssl.SSLCertVerificationError) -> str:
    """What is wrong with it; where that is its time, with the time that was compared with it.

    OpenSSL compares with the clock of the machine, so that clock is read here, and no other.
    """
    why = f"its certificate is not trusted: {error.verify_message}"
    if error.verify_code not in _BY_TIME:
        return why
    now = datetime.fromtimestamp(SystemClock.now_ms() // 1000, timezone.utc)
    return f"{why} (the clock of this machine says {now:%Y-%m-%dT%H:%M:%SZ})"
