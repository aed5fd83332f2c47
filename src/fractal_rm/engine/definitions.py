"""Digests of flows: their versions in the journal, and what two nodes compare at a hand-off."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fractal_rm.domain.flow import Flow, definition_digest, flow_version


class Definitions:
    """The digests of each flow, computed once. ``flows``: the current flows.

    A run keeps the flow with which it began, so a flow may be older than the current flows.
    """

    def __init__(self, flows: Callable[[], Mapping[str, Flow]]) -> None:
        self._flows = flows
        self._of_flows: Mapping[str, Flow] | None = None
        # By `id` of the flow, which is kept alive.
        self._digests: dict[int, tuple[Flow, str]] = {}
        self._versions: dict[str, tuple[Flow, str]] = {}  # by id of the flow in flows.conf

    def version_of(self, flow: Flow) -> str:
        """The version of a flow in the journal (`domain.flow.flow_version`)."""
        known = self._versions.get(flow.id)
        if known is None or known[0] is not flow:
            known = self._versions[flow.id] = flow, flow_version(flow)
        return known[1]

    def of(self, flow: Flow) -> str:
        """The digest of what a flow does (`domain.flow.definition_digest`)."""
        flows = self._flows()
        if flows is not self._of_flows:
            self._of_flows, self._digests = flows, {}
        known = self._digests.get(id(flow))
        if known is None:
            known = self._digests[id(flow)] = flow, definition_digest(flow, flows)
        return known[1]
