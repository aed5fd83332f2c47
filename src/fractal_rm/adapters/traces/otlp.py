"""Sends spans to an OTLP/HTTP receiver, with the exporter of OpenTelemetry.

Importing this module raises ImportError if the extra ``traces`` is not installed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from fractal_rm.adapters.traces.spans import SCHEMA_URL, Span

EXPORT_LIMIT_S = 5.0


class OtlpSender:
    """Sends batches of spans. `send` blocks, so a thread calls it.

    ``node`` returns the id of this node, which is known when the node has started.
    """

    def __init__(self, endpoint: str, node: Callable[[], str], version: str) -> None:
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_LIMIT_S)
        self._node = node
        self._version = version
        self._resource: Resource | None = None
        self._scope = InstrumentationScope("fractal_rm", version, SCHEMA_URL)
        # Failures are counted and reported by `Traces`.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def send(self, spans: Sequence[Span]) -> bool:
        """Send spans, and return whether the receiver has taken them."""
        if self._resource is None:
            self._resource = Resource(
                {
                    "service.name": "fractal-rm",
                    "service.instance.id": self._node(),
                    "service.version": self._version,
                }
            )
        result = self._exporter.export([self._readable(span) for span in spans])
        return result is SpanExportResult.SUCCESS

    def close(self) -> None:
        """End a `send` that waits, and release the connection."""
        self._exporter.shutdown()

    def _readable(self, span: Span) -> ReadableSpan:
        trace = int(span.trace, 16)
        flags = TraceFlags(TraceFlags.SAMPLED if span.is_sampled else TraceFlags.DEFAULT)
        parent = None
        if span.parent:
            parent = SpanContext(trace, int(span.parent, 16), is_remote=True, trace_flags=flags)
        return ReadableSpan(
            span.name,
            SpanContext(trace, int(span.id, 16), is_remote=False, trace_flags=flags),
            parent,
            self._resource,
            dict(span.attributes),
            kind=SpanKind(span.kind.value),
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=int(span.start_ms * 1_000_000),
            end_time=int(span.end_ms * 1_000_000),
            instrumentation_scope=self._scope,
        )
