"""The nodes: which can be reached, how busy they are, and what became of hand-offs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from fractal_rm.config.model import Config, Node
from fractal_rm.domain.clock_offset import offset_text
from fractal_rm.domain.hand_offs_seen import NotTaken, not_taken
from fractal_rm.domain.node_check import (
    Answer,
    Answered,
    Described,
    Program,
    id_order,
    id_warnings,
)
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.web.pages.frame.site import AnyRequest, Site
from fractal_rm.web.pages.numbers.peers import Asked, HandOffs, Sent, own_store
from fractal_rm.web.pages.numbers.samples import Sample


class NodeState(msgspec.Struct, frozen=True):
    """How a node does: a tone, its sign, a word, and why. ``program``: what it runs."""

    tone: str
    sign: str
    word: str
    why: str = ""
    program: str = ""
    clock: str = ""
    in_flight: int | None = None
    waiting: int | None = None


class NodeRow(msgspec.Struct, frozen=True):
    """One entry of nodes.conf.

    ``not_taken`` are the runs among the newest ``newest_runs`` that the node did not take.
    ``received`` says what became of the newest runs that the node handed off to this node.
    """

    node: Node
    is_own: bool
    state: NodeState
    asked_ms: int | None
    sent: Sent | None
    not_taken: list[NotTaken]
    received: str
    warnings: list[str]


def node_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the route of the nodes."""
    others = site.others

    @get("/nodes")
    async def show(request: AnyRequest) -> Response[bytes]:
        config = site.config()
        statuses, answers, hand_offs, sample, store, balancer = await asyncio.gather(
            site.operator.processes.statuses(),
            others.answers(config),
            others.hand_offs(config),
            site.samples.latest(),
            asyncio.to_thread(own_store, config),
            site.conditions.balancer(),
        )
        own_id = config.node_id or (statuses.processes[0].node if statuses.processes else None)
        rows = node_rows(config, own_id, store, statuses.processes, answers, hand_offs, sample)
        return await site.page(
            request, "nodes.html",
            rows=rows,
            has_others=any(not row.is_own for row in rows),
            balancer=balancer,
            hand_offs=hand_offs,
            sampled=len(sample.runs) if sample else 0,
        )  # fmt: skip

    return [show]


def node_rows(
    config: Config,
    own_id: str | None,
    store: str | None,
    processes: Sequence[NodeStatus],
    asked: Mapping[str, Asked],
    hand_offs: HandOffs | None,
    sample: Sample | None,
) -> list[NodeRow]:
    """A row for each node of nodes.conf, in the order of their ids."""
    entries = sorted(config.nodes.values(), key=lambda node: id_order(node.id))
    answers = {node.id: asked[node.id].answer for node in entries if node.id in asked}
    warnings = id_warnings(answers, own_id, store)
    back = not_taken(run.placements for run in sample.runs) if sample else []
    return [
        NodeRow(
            node,
            node.id == own_id,
            _own_state(processes) if node.id == own_id else state_of(answers.get(node.id)),
            asked[node.id].at_ms if node.id in asked and node.id != own_id else None,
            hand_offs.sent.get(node.id) if hand_offs else None,
            [each for each in back if each.node == node.id],
            _received(node.id, hand_offs),
            [text for node_id, text in warnings if node_id == node.id],
        )
        for node in entries
    ]


def state_of(answer: Answer | None) -> NodeState:
    """How another node does, from its answer. None: it has not answered yet."""
    if answer is None:
        return NodeState("quiet", "-", "is being asked")
    if isinstance(answer, Described):
        node = answer.description
        words = ["draining"] if node.draining else []
        words += ["paused"] if node.paused else []
        tone, sign = ("wait", "‖") if words else ("ok", "✓")
        return NodeState(
            tone, sign, ", ".join(words) or "ready", program=f"{node.kind} {node.version}",
            clock=offset_text(answer.clock), in_flight=node.in_flight, waiting=node.waiting,
        )  # fmt: skip
    if isinstance(answer, Answered):
        if not answer.is_reachable:
            return NodeState("fail", "✗", f"error {answer.status}", answer.reason)
        is_original = answer.program is Program.ORIGINAL
        program = "the original" if is_original else "an older release"
        return NodeState("ok", "✓", "answers", "it does not describe itself", program)
    return NodeState("fail", "✗", "no answer" if answer.timed_out else "not reached", answer.reason)


def _own_state(processes: Sequence[NodeStatus]) -> NodeState:
    words = ["draining"] if any(each.draining for each in processes) else []
    words += ["paused"] if any(each.paused for each in processes) else []
    tone, sign = ("wait", "‖") if words else ("ok", "✓")
    return NodeState(
        tone, sign, ", ".join(words) or "this node",
        program=f"fractal-rm {processes[0].version}" if processes else "",
        in_flight=sum(each.in_flight for each in processes),
        waiting=sum(each.waiting for each in processes),
    )  # fmt: skip


def _received(node: str, hand_offs: HandOffs | None) -> str:
    """What became of the newest runs from a node: ``28 succeeded, 1 in trouble``."""
    runs = [run for run in hand_offs.newest if run.sender == node] if hand_offs else []
    return outcomes(run.summary.state for run in runs)


def outcomes(states: Iterable[State]) -> str:
    """Numbers of runs by outcome; empty if there are none."""
    numbers = Counter(
        "in trouble" if state in TROUBLE_STATES else state.text if state.final else "open"
        for state in states
    )
    return ", ".join(f"{number:,} {name}" for name, number in numbers.most_common())
