"""Several nodes in memory that hand runs off to each other, for tests."""

from __future__ import annotations

import msgspec

from engine_stage import Stage, nodes
from fractal_rm.domain.handoff.messages import (
    CODE_PREFIX,
    NoAnswer,
    offer_message,
    read_receipt,
    read_refusal,
)
from fractal_rm.domain.refusals import Refused
from fractal_rm.domain.trigger import Arrival, TriggerSource
from fractal_rm.web.problems import Problem


class JoinedPeers:
    """Port `Peers`: the other stages, by node id. A message has the form that HTTP would carry.

    While ``cut`` is true, nothing reaches the other nodes. While ``answers_are_lost`` is true,
    offers arrive, and their answers do not.
    """

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self.cut = False
        self.answers_are_lost = False
        self.messages: list[bytes] = []

    async def offer(self, node, offer, *, runs_this_program):
        if self.cut:
            return NoAnswer("no route to the machine", sent=False)
        self.messages.append(offer_message(offer))
        answer = await self.deliver(node.id, self.messages[-1], offer)
        return NoAnswer("the link was cut", sent=True) if self.answers_are_lost else answer

    async def deliver(self, node_id: str, message: bytes, offer):
        """Deliver an offer, perhaps a second time, and return its answer."""
        arrival = Arrival(TriggerSource.REST, message)
        try:
            accepted = await self.stages[node_id].node.receive(arrival)
        except Refused as refusal:
            run, epoch = refusal.refused_offer or ("", 0)
            problem = Problem(
                CODE_PREFIX + refusal.code,
                refusal.title,
                refusal.status,
                refusal.reason,
                run,
                epoch,
            )
            reason = f"node {node_id} answered {refusal.code}"
            return read_refusal(msgspec.json.encode(problem), offer, refusal.status, reason)
        return read_receipt(msgspec.json.encode(accepted), offer)

    async def describe(self, node):
        if self.cut or self.answers_are_lost:
            return NoAnswer("no route to the machine", sent=False)
        return self.stages[node.id].node.describe()


def joined(*ids: str, **changes: object) -> dict[str, Stage]:
    """Nodes with these ids; each of them has all in its nodes.conf. ``changes``: see `Stage`."""
    peers = JoinedPeers()
    entry = nodes()["2"]
    entries = {each: msgspec.structs.replace(entry, id=each, address=each) for each in ids}
    for node_id in ids:
        add_stage(peers, node_id, Stage(nodes=entries, node_id=node_id, **changes))
    return peers.stages


def add_stage(peers: JoinedPeers, node_id: str, stage: Stage) -> None:
    """Join a stage, perhaps in place of an earlier one: the node after a restart."""
    stage.dependencies.stored_store_id = lambda: f"store of {node_id}"
    stage.dependencies.peers = stage.peers = peers
    stage.balancer.answer = None
    peers.stages[node_id] = stage
