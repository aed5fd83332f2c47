"""Writes a flow as a Mermaid flow chart, for Markdown viewers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fractal_rm.domain.flow import Flow, Order
from fractal_rm.pictures.card import Card, Entry, Kind, cards, heading
from fractal_rm.pictures.order import predecessors
from fractal_rm.pictures.svg_elements import printable, shorten

_MAX_WIDTH = 60
_SHAPES = {
    Kind.CALL: ("[", "]"),
    Kind.RUN: ("[[", "]]"),
    Kind.WAIT: ("([", "])"),
    Kind.PUBLISH: (">", "]"),
    Kind.REPLY: ("([", "])"),
}
_ALLOWED = frozenset(" ,.:=_+*/-")  # no character with a meaning in Mermaid
Arrow = tuple[str, str, str]  # from, to, label


def mermaid(flow: Flow) -> str:
    """Write a flow as a Mermaid flow chart. The same flow always gives the same text."""
    steps = cards(flow)
    lines = ["flowchart TD", f"  start{_box('([', _heading(flow), '])')}", "  done(((end)))"]
    # In listed order, a step with a condition has an arrow that goes around the step. In dataflow
    # order, it has none.
    forks = flow.order is not Order.DATAFLOW
    for index, card in enumerate(steps):
        lines += _node(index, card, forks=forks)
    arrows = _listed_arrows(steps) if forks else _dataflow_arrows(predecessors(flow.steps))
    for source, target, label in arrows:
        label_text = f"|{label}|" if label else ""
        lines.append(f"  {source} -->{label_text} {target}")
    return "\n".join(lines) + "\n"


def _heading(flow: Flow) -> list[str]:
    header = heading(flow)
    return [
        f"{header.name} {header.title}".strip(),
        *map(_line, (*header.starts, *header.settings)),
    ]


def _line(entry: Entry) -> str:
    keyword, content = entry
    return f"{keyword} {content}"


def _node(index: int, card: Card, *, forks: bool) -> Iterator[str]:
    lines = [f"{card.keyword} {card.target}".strip()]
    if card.number is not None:
        lines[0] = f"{card.number}: {lines[0]}"
        lines += [f"= {card.name}"] if card.name else []
    lines += [card.sends] if card.sends else []
    lines += [f"FOREACH {card.foreach}"] if card.foreach else []
    lines += [f"WHEN {card.element_when}"] if card.element_when else []
    lines += map(_line, card.options)
    if card.when and not forks:
        lines.insert(0, f"WHEN {card.when}")
    opening, closing = _SHAPES[card.kind]
    yield f"  s{index}{_box(opening, lines, closing)}"
    if card.when and forks:
        yield f"  w{index}{_box('{', [f'WHEN {card.when}'], '}')}"
        yield f"  w{index} -->|yes| s{index}"
    if card.undo:
        yield f"  u{index}{_box('[', [f'UNDO {card.undo}'], ']')}"
        yield f"  s{index} -.->|if a later step fails| u{index}"


def _box(opening: str, lines: Iterable[str], closing: str) -> str:
    inner = "<br/>".join(_escaped(shorten(printable(line), _MAX_WIDTH)) for line in lines)
    return f'{opening}"{inner}"{closing}'


def _escaped(text: str) -> str:
    """Replace each character that may have a meaning in Mermaid or HTML with its character code."""
    return "".join(
        char if char.isalnum() or char in _ALLOWED else f"#{ord(char)};" for char in text
    )


def _entry(index: int, card: Card) -> str:
    return f"w{index}" if card.when else f"s{index}"


def _listed_arrows(steps: Sequence[Card]) -> Iterator[Arrow]:
    """The arrows in listed order. Each step and each false condition leads to the next step."""
    entries = [*(_entry(index, card) for index, card in enumerate(steps)), "done"]
    yield "start", entries[0], ""
    for index, card in enumerate(steps):
        yield f"s{index}", entries[index + 1], ""
        if card.when:
            yield f"w{index}", entries[index + 1], "no"


def _dataflow_arrows(sources_of: Sequence[Sequence[int]]) -> Iterator[Arrow]:
    """The arrows in dataflow order. Each step has arrows from the steps that it waits for."""
    last = set(range(len(sources_of))) - {each for sources in sources_of for each in sources}
    for index, sources in enumerate(sources_of):
        for source in [f"s{each}" for each in sources] or ["start"]:
            yield source, f"s{index}", ""
    for each in sorted(last):
        yield f"s{each}", "done", ""
    if not sources_of:
        yield "start", "done", ""
