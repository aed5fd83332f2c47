"""The text of flows.conf, and the flows that it means. Pure."""

from fractal_rm.flowlang.compile import compile_flows

__all__ = ["compile_flows"]
