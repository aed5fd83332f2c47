"""Traces: the ids of traces and spans, and the header ``traceparent`` (W3C Trace Context).

The id of a span follows from the run, its node, the name of the request and the attempt. So a span
has the same id before and after a crash, and requests can name a span that is exported only when
the run has ended.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec
from msgspec import UNSET

from fractal_rm.domain.run import Run

SAMPLED = 0x01
# The names of spans that are no requests of steps. The attempt of an offer is its epoch.
OFFER, PLACE = "offer", "place"


class TraceContext(msgspec.Struct, frozen=True):
    """A trace, the span in which something happens, and whether the trace is exported.

    ``trace`` has 32 hexadecimal digits and ``span`` 16; an empty ``span`` means that there is none.
    """

    trace: str
    span: str
    is_sampled: bool

    @property
    def header(self) -> str:
        """The value of the header ``traceparent``."""
        return f"00-{self.trace}-{self.span}-{SAMPLED if self.is_sampled else 0:02x}"


def parse_traceparent(text: str) -> TraceContext:
    """Read a valid ``traceparent`` (`domain.trigger` has checked its form)."""
    _, trace, span, flags = text.split("-")[:4]
    return TraceContext(trace, span, bool(int(flags, 16) & SAMPLED))


def context_of(run: Run, sample: float) -> TraceContext:
    """The trace of a run, and its parent span. ``sample`` is the share of new traces to export.

    A trace that began elsewhere is exported if its sender says so.
    """
    header = run.accepted.traceparent
    if header is not UNSET:
        return parse_traceparent(header)
    trace = _digest(run.id, 16)
    return TraceContext(trace, "", int(trace[:8], 16) < sample * 2**32)


def span_id(run: Run, name: str = "", attempt: int = 0) -> str:
    """The id of a span of a run. With an empty ``name``, it is the span of the whole run.

    A run that is handed off has the same id at both nodes, and a span at each.
    """
    return _digest(f"{run.id}\0{run.accepted.node or ''}\0{name}\0{attempt}", 8)


def header_for(run: Run, sample: float | None, name: str, attempt: int = 1) -> str | None:
    """The ``traceparent`` to send with a request or an offer, or None.

    ``sample`` None: this node exports no traces. Then the header of the trigger is passed on as it
    came, so that the next span is a child of the sender's span.
    """
    if sample is None:
        header = run.accepted.traceparent
        return None if header is UNSET else header
    context = context_of(run, sample)
    return TraceContext(context.trace, span_id(run, name, attempt), context.is_sampled).header


def trace_id_of(run: Run, sample: float | None) -> str | None:
    """The id of the trace of a run. None: the run belongs to no trace."""
    if sample is None and run.accepted.traceparent is UNSET:
        return None
    return context_of(run, sample or 0.0).trace


def _digest(text: str, size: int) -> str:
    digest = blake2b(text.encode(), digest_size=size).hexdigest()
    return digest if digest.strip("0") else "1".rjust(2 * size, "0")  # an id is never all zeros
