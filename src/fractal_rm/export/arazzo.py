"""A flow as an Arazzo 1.0.1 description, with the OpenAPI descriptions that it refers to.

Arazzo expresses: the calls and their order, bodies, headers and query parameters, the conditions
of success, retries, sub-flows, `ERRORS continue`, and a reply that is one reference.

Everything else (conditions, FOREACH, UNDO, time limits, dataflow order, WAIT, PUBLISH, what begins
a flow, its settings) is in ``x-fractal-…`` keys, in the words of flows.conf. A reference that
Arazzo cannot express is given as its text, and the whole content again in ``x-fractal-sends``.
"""

from __future__ import annotations

from collections.abc import Mapping

from fractal_rm.config.model import Component
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.flow import Call, Flow, SubFlow, flow_version
from fractal_rm.export.openapi import Apis, Document
from fractal_rm.export.workflow import Workflow, counted, title, workflow_id


class CannotExport(FractalError):
    """Arazzo cannot hold the flow. The text says why."""

    code = "cannot-export"


def arazzo(
    flow: Flow, flows: Mapping[str, Flow], components: Mapping[str, Component]
) -> dict[str, Document]:
    """The documents by the names of their files; the Arazzo description is the first.

    The description has the flow and the flows that it runs. Raises CannotExport.
    """
    apis = Apis(components)
    together = _with_sub_flows(flow, flows)
    workflows = [Workflow(each, apis).document() for each in together]
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
    found = {flow.id: flow}
    waiting = [flow]
    while waiting:
        for step in waiting.pop(0).steps:
            if isinstance(step, SubFlow) and step.flow not in found:
                found[step.flow] = flows[step.flow]
                waiting.append(flows[step.flow])
    for each in found.values():
        if not counted(each):
            raise CannotExport(
                f"flow {each.id} makes no calls, and a workflow of Arazzo needs at least one step"
            )
    if not any(isinstance(step, Call) for each in found.values() for step in each.steps):
        raise CannotExport("no component is called, and an Arazzo description needs at least one")
    return list(found.values())
