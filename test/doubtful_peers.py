"""A peer that describes itself as a node, but whose answers to offers leave runs in doubt."""

from __future__ import annotations

import msgspec

from components import Components
from fractal_rm.domain.node_description import KIND, PROTOCOL, NodeDescription
from fractal_rm.domain.state import State
from nodes import NodeProcess, wait_until


def description_of(node_id: str, **fields: object) -> NodeDescription:
    """The description of a node; ``fields`` are other values of `NodeDescription`."""
    defaults = {"store": "store-of-the-peer", "boot": "first", "time_ms": 1_790_000_000_000}
    return NodeDescription(
        kind=KIND, version="1.0", protocol=PROTOCOL, node=node_id, **{**defaults, **fields}
    )


def add_doubtful_peer(node: NodeProcess, components: Components, node_id: str = "2") -> None:
    """Let the balancer name a node that answers 500 to each offer, as a gateway may do."""
    description = msgspec.json.encode(description_of(node_id)).decode()

    def answer(handler, _):
        return (200, description) if handler.command == "GET" else (500, "a gateway failed")

    components.answers["/doubtful"] = answer
    components.answers["/LB/id_node"] = (200, msgspec.json.encode({"id_node": node_id}).decode())
    node.write("nodes", {node_id: {"config": {
        "protocol": "http", "ip": "127.0.0.1", "port": components.port, "endpoint": "doubtful",
        "peer": "fractal", "timeout_s": 20,
    }}})  # fmt: skip


def run_in_doubt(node: NodeProcess, flow: str = "2") -> str:
    """Send a trigger, and wait until its run is in doubt. Returns the id of the run."""
    run = node.trigger(flow, ask_balancer=True).body["run"]
    wait_until(lambda: f"offer_in_doubt run={run}" in node.log)
    assert node.history.run(run).summary.state is State.OFFERED
    return run
