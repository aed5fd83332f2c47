"""HTTP/1.1 calls to components, peers and the balancer."""

from fractal_rm.adapters.http1.caller import Http1Caller

__all__ = ["Http1Caller"]
