"""A flow as the text of a Mermaid flow chart, for what shows Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fractal_rm.domain.flow import Flow, Order
from fractal_rm.pictures.card import Card, Kind, Said, cards, heading
from fractal_rm.pictures.ink import printable, shorten
from fractal_rm.pictures.order import predecessors

_WIDEST = 60
_SHAPES = {
    Kind.CALL: ("[", "]"),
    Kind.RUN: ("[[", "]]"),
    Kind.WAIT: ("([", "])"),
    Kind.PUBLISH: (">", "]"),
    Kind.REPLY: ("([", "])"),
}
_ALLOWED = frozenset(" ,.:=_+*/-")  # beside letters and digits: what means nothing to Mermaid
Arrow = tuple[str, str, str]  # from, to, and what is written on it


def mermaid(flow: Flow) -> str:
    """Write a flow. The same flow gives the same text."""
    made = cards(flow)
    lines = ["flowchart TD", f"  start{_box('([', _heading(flow), '])')}", "  done(((end)))"]
    forks = flow.order is not Order.DATAFLOW  # there, who needs a skipped result gets null
    for at, card in enumerate(made):
        lines += _node(at, card, forks=forks)
    arrows = _one_by_one(made) if forks else _by_need(predecessors(flow.steps))
    lines += [f"  {source} -->{said and f'|{said}|'} {target}" for source, target, said in arrows]
    return "\n".join(lines) + "\n"


def _heading(flow: Flow) -> list[str]:
    above = heading(flow)
    return [f"{above.name} {above.title}".strip(), *map(_said, (*above.begins, *above.settings))]


def _said(said: Said) -> str:
    return f"{said[0]} {said[1]}"


def _node(at: int, card: Card, *, forks: bool) -> Iterator[str]:
    lines = [f"{card.keyword} {card.target}".strip()]
    if card.number is not None:
        lines[0] = f"{card.number}: {lines[0]}"
        lines += [f"= {card.name}"] if card.name else []
    lines += [card.sends] if card.sends else []
    lines += [f"FOREACH {card.each}"] if card.each else []
    lines += [f"WHEN {card.picks}"] if card.picks else []
    lines += map(_said, card.terms)
    if card.when and not forks:
        lines.insert(0, f"WHEN {card.when}")
    opened, closed = _SHAPES[card.kind]
    yield f"  s{at}{_box(opened, lines, closed)}"
    if card.when and forks:
        yield f"  w{at}{_box('{', [f'WHEN {card.when}'], '}')}"
        yield f"  w{at} -->|yes| s{at}"
    if card.undo:
        yield f"  u{at}{_box('[', [f'UNDO {card.undo}'], ']')}"
        yield f"  s{at} -.->|if a later step fails| u{at}"


def _box(opened: str, lines: Iterable[str], closed: str) -> str:
    inner = "<br/>".join(_escaped(shorten(printable(line), _WIDEST)) for line in lines)
    return f'{opened}"{inner}"{closed}'


def _escaped(text: str) -> str:
    """Every sign that could mean something to Mermaid or to HTML, by its number."""
    return "".join(
        sign if sign.isalnum() or sign in _ALLOWED else f"#{ord(sign)};" for sign in text
    )


def _entry(at: int, card: Card) -> str:
    return f"w{at}" if card.when else f"s{at}"


def _one_by_one(made: Sequence[Card]) -> Iterator[Arrow]:
    """From each step to the next; from a condition that does not hold, too."""
    entries = [*(_entry(at, card) for at, card in enumerate(made)), "done"]
    yield "start", entries[0], ""
    for at, card in enumerate(made):
        yield f"s{at}", entries[at + 1], ""
        if card.when:
            yield f"w{at}", entries[at + 1], "no"


def _by_need(before: Sequence[Sequence[int]]) -> Iterator[Arrow]:
    """From what a step waits for to it."""
    last = set(range(len(before))) - {each for sources in before for each in sources}
    for at, sources in enumerate(before):
        for source in [f"s{each}" for each in sources] or ["start"]:
            yield source, f"s{at}", ""
    for each in sorted(last):
        yield f"s{each}", "done", ""
    if not before:
        yield "start", "done", ""
