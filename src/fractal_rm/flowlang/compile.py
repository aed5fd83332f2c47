"""Compiles the text of a flows.conf into flows and findings."""

from __future__ import annotations

from fractal_rm.domain.findings import Finding
from fractal_rm.domain.flow import Flow
from fractal_rm.flowlang.cross_checks import check_flows
from fractal_rm.flowlang.parse import parse
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.resolve import Endpoints, resolve
from fractal_rm.flowlang.scan import scan


def compile_flows(
    text: str, endpoints: Endpoints, file: str = "flows.conf"
) -> tuple[dict[str, Flow], list[Finding]]:
    """Compile ``text``. Returns the flows by their ids, and the findings.

    If a finding is an error, the flows must not be used. If there are too many findings, the last
    finding says how many more there are. ``endpoints`` has the names of the endpoints of every
    component.

    Raises OSError if no file descriptor is free to load a library that a flow needs.
    """
    report = Report(file)
    trees = parse(scan(text), report)
    flows = resolve(trees, endpoints, report)
    check_flows(trees, flows, report)
    return flows, report.findings()
