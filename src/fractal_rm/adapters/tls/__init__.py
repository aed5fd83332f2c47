"""Makes all TLS contexts of this program, and describes TLS errors."""

from fractal_rm.adapters.tls.contexts import TlsContexts
from fractal_rm.adapters.tls.errors import describe_tls_error, is_handshake_alert
from fractal_rm.adapters.tls.expiry import CertificateExpiry
from fractal_rm.adapters.tls.server import ServerContext

__all__ = [
    "CertificateExpiry",
    "ServerContext",
    "TlsContexts",
    "describe_tls_error",
    "is_handshake_alert",
]
