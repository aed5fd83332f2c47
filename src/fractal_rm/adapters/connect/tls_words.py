"""Why there is no TLS with a server, in words."""

from __future__ import annotations

import ssl
from datetime import datetime, timezone

from fractal_rm.adapters.clock import SystemClock

_BY_TIME = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED (openssl verify)
_VERSION = "it speaks no version of TLS that is allowed here"
_CERTIFICATE = "it does not take the certificate that tls.cert names"
_MISSING = "it asks for a certificate, and tls.cert names none that suits"
_WORDS = {  # by OpenSSL's reason; those with ALERT are what the server says (RFC 8446, 6.2)
    "WRONG_VERSION_NUMBER": "what it sends is not TLS",
    "UNSUPPORTED_PROTOCOL": _VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": _VERSION,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _MISSING,
    "TLSV1_ALERT_UNKNOWN_CA": _CERTIFICATE,
    "SSLV3_ALERT_BAD_CERTIFICATE": _CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_REVOKED": _CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _CERTIFICATE,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _CERTIFICATE,
    "TLSV1_ALERT_ACCESS_DENIED": _CERTIFICATE,
    "TLSV1_UNRECOGNIZED_NAME": "it knows no host of this name",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "no cipher suits both sides, or it asks for a certificate",
}


def tls_words(error: ssl.SSLError) -> str:
    """What is wrong, with OpenSSL's own reason to look for."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _why_not_trusted(error)
    reason = error.reason or str(error)
    words = _WORDS.get(reason)
    return f"TLS was refused: {words} ({reason})" if words else f"TLS was refused: {reason}"


def is_refusal(error: ssl.SSLError) -> bool:
    """Whether the server has refused us in the handshake (RFC 8446, 4.4.2.4).

    In TLS 1.3 it may do so when the first request is on its way: it does not read that.
    """
    return "ALERT" in (error.reason or "") and error.reason in _WORDS


def _why_not_trusted(error: ssl.SSLCertVerificationError) -> str:
    """Where it is its time, with the time that was compared with it.

    OpenSSL compares with the clock of the machine, so that clock is read here, and no other.
    """
    why = f"its certificate is not trusted: {error.verify_message}"
    if error.verify_code not in _BY_TIME:
        return why
    now = datetime.fromtimestamp(SystemClock.now_ms() // 1000, timezone.utc)
    return f"{why} (the clock of this machine says {now:%Y-%m-%dT%H:%M:%SZ})"
