"""Builds a running node from the engine and its adapters. No other package imports both."""

from fractal_rm.wiring.process import serve

__all__ = ["serve"]
