"""TLS: the only place that makes contexts, and the texts for what goes wrong."""

from fractal_rm.adapters.tls.contexts import TlsContexts
from fractal_rm.adapters.tls.errors import describe_tls_error, is_handshake_alert

__all__ = ["TlsContexts", "describe_tls_error", "is_handshake_alert"]
