"""Connections to a host: its name, its addresses, and a file descriptor for it."""

from fractal_rm.adapters.connect.connector import Connector
from fractal_rm.adapters.connect.names import Names

__all__ = ["Connector", "Names"]
