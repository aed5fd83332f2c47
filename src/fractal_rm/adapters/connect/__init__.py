"""Connects to hosts: resolves names, tries addresses in turn, waits for file descriptors."""

from fractal_rm.adapters.connect.connector import Connector
from fractal_rm.adapters.connect.resolver import Resolver

__all__ = ["Connector", "Resolver"]
