"""Exports a flow as an Arazzo 1.0.1 description, with the OpenAPI descriptions that it refers to.

Arazzo can express the calls and their order, bodies, headers, query parameters, the conditions of
success, retries, sub-flows, `ERRORS continue`, and a reply that is one reference.

Everything else is in ``x-fractal-…`` keys, as text of flows.conf: WHEN, FOREACH, UNDO, time
limits, dataflow order, WAIT, PUBLISH, what starts the flow, and its settings. A reference that
Arazzo cannot express is replaced by its text, and ``x-fractal-sends`` has the complete content.
"""

from __future__ import annotations

from collections.abc import Mapping

from fractal_rm.config.model import Component
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.flow import Call, Flow, SubFlow, flow_version
from fractal_rm.export.openapi import Apis, Document
from fractal_rm.export.workflow import Workflow, steps_with_results, title, workflow_id


class CannotExport(FractalError):
    """The flow cannot be exported. The text gives the reason."""

    code = "cannot-export"


def export_arazzo(
    flow: Flow, flows: Mapping[str, Flow], components: Mapping[str, Component]
) -> dict[str, Document]:
    """Return the documents by file name. The first document is the Arazzo description.

    The Arazzo description contains the flow and its sub-flows. Raises CannotExport.
    """
    apis = Apis(components)
    exported = _with_sub_flows(flow, flows)
    workflows = [Workflow(each, apis).document() for each in exported]
    document = {
        "arazzo": "1.0.1",
        "info": {
            "title": title(flow),
            "summary": "made from flows.conf",
            "description": "What Arazzo cannot express is in x-fractal-… keys.",
            "version": flow_version(flow),
        },
        "sourceDescriptions": apis.sources(),
        "workflows": workflows,
    }
    return {f"{workflow_id(flow.id)}.arazzo.json": document, **apis.files()}


def _with_sub_flows(flow: Flow, flows: Mapping[str, Flow]) -> list[Flow]:
    flow_by_id = {flow.id: flow}
    to_visit = [flow]
    while to_visit:
        for step in to_visit.pop(0).steps:
            if isinstance(step, SubFlow) and step.flow not in flow_by_id:
                flow_by_id[step.flow] = flows[step.flow]
                to_visit.append(flows[step.flow])
    for each in flow_by_id.values():
        if not steps_with_results(each):
            raise CannotExport(
                f"flow {each.id} has no calls, and an Arazzo workflow needs at least one step"
            )
    if not any(isinstance(step, Call) for each in flow_by_id.values() for step in each.steps):
        raise CannotExport(
            f"flow {flow.id} calls no component, and an Arazzo description needs at least one"
        )
    return list(flow_by_id.values())
