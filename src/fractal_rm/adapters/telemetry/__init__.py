"""Writes the log of the program."""

from fractal_rm.adapters.telemetry.level import LogLevel
from fractal_rm.adapters.telemetry.log import LogTelemetry, flush_log, open_log
from fractal_rm.adapters.telemetry.run_log import RunLog

__all__ = ["LogLevel", "LogTelemetry", "RunLog", "flush_log", "open_log"]
