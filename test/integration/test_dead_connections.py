"""A node dies with an offer on a connection that was used before, and cannot be reached then."""

from __future__ import annotations

import msgspec

from engine_stage import Stage, nodes, until
from fractal_rm.adapters.http1 import Http1Caller
from fractal_rm.adapters.memory import described_node
from fractal_rm.adapters.peers import HttpPeers
from fractal_rm.domain.facts import OfferInDoubt
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.state import State
from scripted_server import DIE, serving

BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"


def description() -> bytes:
    body = msgspec.json.encode(described_node())
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def test_a_run_is_in_doubt_if_its_node_may_have_read_the_offer_and_is_gone(monkeypatch):
    monkeypatch.setattr("fractal_rm.domain.handoff.sender.pause_s", lambda *_: 0.001)
    async with serving([description()], [BUSY], [DIE]) as server:
        peers = nodes(port=server.port, peer="fractal", timeout_s=20)
        async with Stage(nodes=peers) as stage:
            stage.dependencies.peers = HttpPeers(Http1Caller())
            stage.balancer.answer = "2"
            assert (await stage.run("2")).state is State.SUCCEEDED  # the node was busy
            calls = len(stage.called_endpoints())
            run = (await stage.send("2")).run
            await until(lambda: any(isinstance(f, OfferInDoubt) for f in stage.disk.facts(run)))
            assert len(server.requests) == 3
            assert len(stage.called_endpoints()) == calls
            assert stage.node.state_of(run) is State.OFFERED
            assert stage.node.resolve(run, Decision.TAKEN, "ann")
            assert (await stage.wait_for_outcome(run)).state is State.HANDED_OFF
