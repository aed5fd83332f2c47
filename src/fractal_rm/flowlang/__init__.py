"""The flow language: compiles, writes and formats the text of flows.conf. No I/O."""

from fractal_rm.flowlang.compile import compile_flows

__all__ = ["compile_flows"]
