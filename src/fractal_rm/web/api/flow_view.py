"""The flows of the configuration in force, as clients see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
from litestar.exceptions import HTTPException

from fractal_rm.domain.flow import Flow


class FlowView:
    """Reads flows for clients. ``flows`` returns those of the configuration in force."""

    def __init__(self, flows: Callable[[], Mapping[str, Flow]]) -> None:
        self._flows = flows

    def all(self) -> list[Flow]:
        """Every flow, in the order of flows.conf."""
        return list(self._flows().values())

    def one(self, flow_id: str) -> Flow:
        """One flow. Raises HTTPException if there is no such flow."""
        flow = self._flows().get(flow_id)
        if flow is None:
            raise HTTPException(status_code=404, detail=f"flows.conf has no flow {flow_id[:40]}")
        return flow

    def encoded(self, flow_id: str) -> bytes:
        """The content of the response for a flow. Raises HTTPException if there is none."""
        return msgspec.json.encode(self.one(flow_id))
