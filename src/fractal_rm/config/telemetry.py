"""Reads the sections ``log``, ``metrics`` and ``traces`` of comm.conf."""

from __future__ import annotations

import msgspec

from fractal_rm.config.model import Traces
from fractal_rm.config.section import Section
from fractal_rm.config.targets import is_valid_host
from fractal_rm.domain.address import read_origin
from fractal_rm.domain.log_level import INFO, LOG_FORMATS, LOG_LEVELS

MAX_PORT = 65_535
DEFAULT_SAMPLE = 0.01


class Telemetry(msgspec.Struct, frozen=True):
    """The settings of the log, the metrics and the traces. ``log_path`` None: standard error."""

    log_path: str | None
    log_format: str
    log_level: str
    metrics_port: int | None
    traces: Traces | None


def read_telemetry(log: Section, metrics: Section, traces: Section) -> Telemetry:
    """Read the sections. Adds a finding for each wrong value."""
    port = metrics.integer("port", 0, 1, MAX_PORT)
    settings = Telemetry(
        log_path=log.path("path"),
        log_format=log.one_of("format", LOG_FORMATS, LOG_FORMATS[0]),
        log_level=log.one_of("level", LOG_LEVELS, INFO),
        metrics_port=port or None,
        traces=_traces(traces),
    )
    for section in (log, metrics, traces):
        section.finish()
    return settings


def _traces(section: Section) -> Traces | None:
    text = section.text("endpoint")
    sample = section.fraction("sample", DEFAULT_SAMPLE, 0)
    if not text:
        return None
    origin = read_origin(_without_path(text).encode("utf-8", "replace"))
    if origin is None or not is_valid_host(origin[1]) or not 1 <= origin[2] <= MAX_PORT:
        section.bad("endpoint", f"{text} is not a URL of a server",
                    "write the URL of an OTLP/HTTP receiver, such as"
                    " http://127.0.0.1:4318/v1/traces")  # fmt: skip
        return None
    return Traces(text, sample)


def _without_path(url: str) -> str:
    protocol, separator, rest = url.partition("://")
    return f"{protocol}{separator}{rest.partition('/')[0]}"
