"""Connections to a host: name lookup, its addresses in turn, and a file descriptor."""

from fractal_rm.adapters.connect.connector import Connector
from fractal_rm.adapters.connect.resolver import Resolver

__all__ = ["Connector", "Resolver"]
