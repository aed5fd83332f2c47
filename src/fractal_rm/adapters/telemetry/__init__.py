"""The log."""

from fractal_rm.adapters.telemetry.log import LogTelemetry, flush_log, open_log

__all__ = ["LogTelemetry", "flush_log", "open_log"]
