"""`nodes`: show what every node of nodes.conf says about itself, and the last hand-offs to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.http1 import Http1Caller
from fractal_rm.adapters.node_id import NodeIdUnreadable, existing_node_id, existing_store_id
from fractal_rm.adapters.peers.questions import ask_nodes
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.hand_offs import NO_HAND_OFFS, HandOffs, hand_offs_by_node
from fractal_rm.cli.options import (
    config_option,
    json_option,
    moment,
    print_json,
    print_table,
    read_config,
)
from fractal_rm.cli.safe_text import echo
from fractal_rm.config.model import Config
from fractal_rm.config.model import Node as PeerNode
from fractal_rm.domain.clock_offset import offset_text
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.node_check import (
    Answer,
    Answered,
    Described,
    NotReached,
    Program,
    id_order,
    id_warnings,
)

LIMIT_S = 5.0  # for the answers of all nodes together
_STATES = {  # by `draining` and `paused`; short, because the table should have 80 columns
    (False, False): "ready", (True, False): "draining",
    (False, True): "paused", (True, True): "drain+pause",
}  # fmt: skip
_OWN_ENTRY = "the entry of this node itself; no run is sent to this address"
_HEAD = ("node", "program", "state", "load", "wait", "clock", "sent", "doubt", "last")


@click.command()
@config_option
@json_option
def nodes(folder: Path, as_json: bool) -> int:
    """Show the nodes of nodes.conf: whether each can be reached, how busy it is, and its clock.

    All nodes are asked at the same time, for at most 5 s. This node need not run.

    LOAD is the number of runs in flight, and WAIT that of runs that wait. CLOCK is how far the
    clock of the node is ahead of the clock here. SENT counts the runs that were handed off to the
    node, among the last 1,000 hand-offs of this node, and LAST is the time of the newest one. DOUBT
    counts the runs that were offered to the node and whose answer is not known; `runs resolve`
    decides such a run.

    The entry of this node itself is shown, too, but no run is sent to it.

    Exits 1 if another node cannot be reached, or has another id than in nodes.conf.
    """
    config = read_config(folder)
    entries = sorted(config.nodes.values(), key=lambda node: id_order(node.id))
    answers = asyncio.run(_ask(entries))
    hand_offs, journal_problem = _read_hand_offs(Path(config.state_path))
    own_id, own_store = _own_ids(config)
    warnings = id_warnings(answers, own_id, own_store)
    if as_json:
        print_json({
            "nodes": [
                _for_programs(node, answers[node.id], hand_offs, warnings, own_id)
                for node in entries
            ],
            "journal_problem": journal_problem,
        })  # fmt: skip
    else:
        _print(entries, answers, hand_offs, warnings, own_id)
        if journal_problem is not None:
            echo(f"some hand-offs are not counted: {journal_problem}", err=True)
    others = [answers[node.id] for node in entries if node.id != own_id]
    problems = warnings or [each for each in others if not _is_reachable(each)]
    return EXIT_PROBLEMS if problems else 0


async def _ask(entries: Iterable[PeerNode]) -> dict[str, Answer]:
    caller = Http1Caller()
    try:
        return await ask_nodes(caller, entries, LIMIT_S)
    finally:
        await caller.close()


def _own_ids(config: Config) -> tuple[str | None, str | None]:
    """The ids of this node and of its state folder. None: there is none, or it is unreadable."""
    state = Path(config.state_path)
    return config.node_id or _existing(existing_node_id, state), _existing(existing_store_id, state)


def _existing(read: Callable[[Path], str | None], state: Path) -> str | None:
    try:
        return read(state)
    except (OSError, NodeIdUnreadable):
        return None


def _read_hand_offs(state: Path) -> tuple[Mapping[str, HandOffs], str | None]:
    """The last hand-offs to each node, and why some of them are not known."""
    try:
        by_node, damage = hand_offs_by_node(SqliteHistory(state))
        return by_node, "; ".join(damage) or None
    except JournalError as error:
        return {}, str(error)


def _is_reachable(answer: Answer) -> bool:
    return isinstance(answer, Described) or (isinstance(answer, Answered) and answer.is_reachable)


# --- for people -----------------------------------------------------------------------------------


def _print(
    entries: list[PeerNode],
    answers: Mapping[str, Answer],
    hand_offs: Mapping[str, HandOffs],
    warnings: list[tuple[str, str]],
    own_id: str | None,
) -> None:
    rows = [
        (
            node.id,
            *_columns(answers[node.id], is_own=node.id == own_id),
            *_hand_off_columns(hand_offs.get(node.id, NO_HAND_OFFS)),
        )
        for node in entries
    ]
    print_table(_HEAD, rows, empty="nodes.conf has no nodes")
    for node in entries:
        answer = answers[node.id]
        if not isinstance(answer, Described):
            why = _OWN_ENTRY if node.id == own_id else _why(answer)
            echo(f"node {node.id}, {_url(node)}: {why}")
    for node_id, text in warnings:
        echo(f"warning: node {node_id}: {text}")


def _columns(answer: Answer, *, is_own: bool) -> tuple[object, ...]:
    """The columns program, state, load, wait and clock. ``is_own``: of this node's own entry."""
    if isinstance(answer, Described):
        node = answer.description
        return (
            f"{node.kind} {node.version}", _STATES[node.draining, node.paused], node.in_flight,
            node.waiting, offset_text(answer.clock),
        )  # fmt: skip
    if is_own:
        return "-", "this node", "-", "-", "-"
    if isinstance(answer, Answered):
        state = "answers" if answer.is_reachable else f"error {answer.status}"
        return answer.program.value, state, "-", "-", "-"
    return "-", "no answer" if answer.timed_out else "not reached", "-", "-", "-"


def _hand_off_columns(hand_offs: HandOffs) -> tuple[object, ...]:
    """The columns sent, doubt and last."""
    last = "-" if hand_offs.last_ms is None else _short_moment(hand_offs.last_ms)
    return hand_offs.sent, hand_offs.in_doubt, last


def _short_moment(at_ms: int) -> str:
    """The time of day, or the date if it is another day."""
    text = moment(at_ms)
    today = moment(SystemClock.now_ms())[:10]
    return text[11:16] if text[:10] == today else text[:10]


def _why(answer: Answered | NotReached) -> str:
    """Why a node has not described itself."""
    if isinstance(answer, Answered) and answer.is_reachable:
        if answer.program is Program.ORIGINAL:
            return "the original Runtime Manager, which does not describe itself"
        return "an older release of this program, which does not describe itself"
    return answer.reason


def _url(node: PeerNode) -> str:
    return f"{node.describe.origin}{node.describe.target}"


# --- for programs ---------------------------------------------------------------------------------


def _for_programs(
    node: PeerNode,
    answer: Answer,
    hand_offs: Mapping[str, HandOffs],
    warnings: list[tuple[str, str]],
    own_id: str | None,
) -> dict[str, Any]:
    """One node as JSON. Values that are not known are null."""
    sent = hand_offs.get(node.id, NO_HAND_OFFS)
    description = answer.description if isinstance(answer, Described) else None
    offset = answer.clock if isinstance(answer, Described) else None
    program = answer.program.value if isinstance(answer, Answered) else "unknown"
    return {
        "id": node.id,
        "url": _url(node),
        "this_node": node.id == own_id,
        "reachable": _is_reachable(answer),
        "status": answer.status if isinstance(answer, Answered) else 200 if description else None,
        "reason": None if isinstance(answer, Described) else answer.reason,
        "program": program if description is None else description.kind,
        "description": description,
        "clock_offset_ms": None if offset is None else round(offset.ms),
        "clock_uncertain_ms": None if offset is None else round(offset.uncertain_ms, 1),
        "hand_offs": {"sent": sent.sent, "last_ms": sent.last_ms, "in_doubt": sent.in_doubt},
        "warnings": [text for node_id, text in warnings if node_id == node.id],
    }
