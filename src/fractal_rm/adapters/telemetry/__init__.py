"""What happened, written to the log."""

from fractal_rm.adapters.telemetry.log import LogTelemetry, open_log

__all__ = ["LogTelemetry", "open_log"]
