"""Texts for TLS errors."""

from __future__ import annotations

import ssl
from datetime import datetime, timezone

from fractal_rm.adapters.clock import SystemClock

_WRONG_TIME = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED (openssl verify)
_VERSION = "the server supports no TLS version that this machine allows"
_CERTIFICATE = "the server does not accept the certificate in tls.cert"
_MISSING = "the server asks for a certificate, and tls.cert has no suitable one"
# A text for each reason of OpenSSL. Reasons with ALERT in their name are alerts from the server
# (RFC 8446, 6.2).
_TEXTS = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS",
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
    "TLSV1_UNRECOGNIZED_NAME": "the server has no host with this name",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "no common cipher, or the server asks for a certificate",
}


def describe_tls_error(error: ssl.SSLError) -> str:
    """A text for people. It ends with OpenSSL's own reason, so that they can search for it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _describe_untrusted(error)
    reason = error.reason or str(error)
    text = _TEXTS.get(reason)
    return f"TLS was refused: {text} ({reason})" if text else f"TLS was refused: {reason}"


def is_handshake_alert(error: ssl.SSLError) -> bool:
    """Whether the error is an alert with which the server refused the handshake.

    In TLS 1.3, the alert may arrive after the first request was sent (RFC 8446, 4.4.2.4). In that
    case, the server has not read the request.
    """
    return "ALERT" in (error.reason or "") and error.reason in _TEXTS


def _describe_untrusted(error: ssl.SSLCertVerificationError) -> str:
    """The reason why a certificate is not trusted.

    If a date in the certificate is the reason, the text includes the time of the machine's clock,
    with which OpenSSL compares the date.
    """
    text = f"the certificate of the server is not trusted: {error.verify_message}"
    if error.verify_code not in _WRONG_TIME:
        return text
    moment = datetime.fromtimestamp(SystemClock.now_ms() // 1000, timezone.utc)
    return f"{text} (the clock of this machine is at {moment:%Y-%m-%dT%H:%M:%SZ})"
