"""Counts what a node does, and shows the numbers in the text format of Prometheus.

Nothing of this package is imported before somebody asks for the numbers (`/metrics`, or
``metrics.port`` in comm.conf).
"""

from fractal_rm.adapters.metrics.exposition import CONTENT_TYPE, Metrics

__all__ = ["CONTENT_TYPE", "Metrics"]
