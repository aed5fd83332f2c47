"""From the text of a flows.conf to its flows, or to every finding."""

from __future__ import annotations

from fractal_rm.domain.findings import Finding
from fractal_rm.domain.flow import Flow
from fractal_rm.flowlang.parse import parse
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.resolve import Endpoints, resolve
from fractal_rm.flowlang.scan import scan


def compile_flows(
    text: str, endpoints: Endpoints, file: str = "flows.conf"
) -> tuple[dict[str, Flow], list[Finding]]:
    """Compile ``text``. ``endpoints`` names the endpoints of every component that exists.

    Never raises; where a finding is an error, the flows are not to be used.
    """
    report = Report(file)
    flows = resolve(parse(scan(text), report), endpoints, report)
    return flows, sorted(report.findings, key=lambda f: (f.place.line, f.place.column))
