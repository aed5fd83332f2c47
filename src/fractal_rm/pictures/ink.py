"""Black texts and lines as SVG elements; lengths in pixels.

The font is monospaced, so that the width of a text is known without the font.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from xml.sax.saxutils import escape

MONO = "'DejaVu Sans Mono','Liberation Mono',Menlo,Consolas,monospace"
SANS = "'DejaVu Sans','Liberation Sans',Helvetica,Arial,sans-serif"
CELL = 0.61  # width of a character divided by its size, in the widest of these fonts
GREY = "#ececec"

Point = tuple[float, float]


def cells(text: str) -> int:
    """The width of a text in characters; a Chinese, Japanese or Korean character takes two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def fitting(width: float, size: float) -> int:
    """How many characters of a size fit into a width."""
    return int(width / (size * CELL))


def shorten(text: str, most: int) -> str:
    """The text; if it is wider than ``most`` characters, its middle is cut out."""
    if cells(text) <= most:
        return text
    keep = max(most - 1, 0)
    head, tail = _first(text, keep - keep // 2), _first(text[::-1], keep // 2)[::-1]
    return f"{head}…{tail}"


def wrap(text: str, width: int, most: int) -> list[str]:
    """The text in at most ``most`` lines; if it is longer, its middle is cut out."""
    room = width * most
    while True:
        lines = _wrapped(shorten(text, room), width)
        if len(lines) <= most:
            return lines
        room -= width // 8 + 1


def _wrapped(text: str, width: int) -> list[str]:
    lines: list[str] = []
    while cells(text) > width:
        part = _first(text, width)
        space = part.rfind(" ")
        end = space if space > len(part) // 2 else len(part)
        lines.append(text[:end])
        text = text[end:].lstrip(" ")
    return [*lines, text]


def _first(text: str, most: int) -> str:
    """As many characters from the left as fit."""
    taken = 0
    for at, char in enumerate(text):
        taken += cells(char)
        if taken > most:
            return text[:at]
    return text


def text(
    at: Point, content: str, size: float = 12, *, bold: bool = False, right: bool = False,
    fill: str = "black", sans: bool = False,
) -> str:  # fmt: skip
    """A line of text. ``at`` is the left end of its base line, or with ``right`` the right end."""
    more = ' font-weight="bold"' * bold + ' text-anchor="end"' * right
    more += f' fill="{fill}" stroke="none"'
    more += f' font-family="{SANS}"' if sans else ""
    where = f'x="{_number(at[0])}" y="{_number(at[1])}" font-size="{_number(size)}"'
    return f"<text {where}{more}>{escape(printable(content))}</text>"


def printable(content: str) -> str:
    """The text with every character that is not printable replaced."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in content)


def path(points: Iterable[Point], more: str = "") -> str:
    """A line through points."""
    first, *others = points
    way = f"M{_pair(first)}" + "".join(f"L{_pair(point)}" for point in others)
    return f'<path d="{way}"{more}/>'


def shape(way: str, more: str = "") -> str:
    """A path from its SVG commands."""
    return f'<path d="{way}"{more}/>'


def arrow(points: Iterable[Point], more: str = "") -> str:
    """A line through points with an arrow head; its last part is horizontal or vertical."""
    way = list(points)
    (x0, y0), (x, y) = way[-2:]
    length = max(abs(x - x0), abs(y - y0)) or 1
    along, across = (x - x0) / length, (y - y0) / length
    way[-1] = (x - 6 * along, y - 6 * across)
    left = (x - 8 * along + 4 * across, y - 8 * across + 4 * along)
    right = (x - 8 * along - 4 * across, y - 8 * across - 4 * along)
    head = f"M{_pair((x, y))}L{_pair(left)}L{_pair(right)}Z"
    return path(way, more) + shape(head, ' fill="black" stroke="none"')


def circle(at: Point, radius: float, more: str = "") -> str:
    """A circle around a point."""
    where = f'cx="{_number(at[0])}" cy="{_number(at[1])}"'
    return f'<circle {where} r="{_number(radius)}"{more}/>'


def rectangle(at: Point, width: float, height: float, radius: float = 0, more: str = "") -> str:
    """A rectangle from its upper left corner."""
    size = f'width="{_number(width)}" height="{_number(height)}"'
    where = f'x="{_number(at[0])}" y="{_number(at[1])}"'
    return f'<rect {where} {size} rx="{_number(radius)}"{more}/>'


def moved(elements: Iterable[str], by: Point) -> str:
    """Elements, moved by a distance."""
    return f'<g transform="translate({_pair(by)})">{"".join(elements)}</g>'


def page(elements: Iterable[str], width: float, height: float, title: str) -> str:
    """A whole SVG document with a white background."""
    w, h = _number(width), _number(height)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}"'
    lines = [
        f'{head} viewBox="0 0 {w} {h}" font-family="{MONO}">',
        f"<title>{escape(printable(title))}</title>",
        f'<rect width="{w}" height="{h}" fill="white"/>',
        '<g fill="none" stroke="black" stroke-width="1.2">',
        *elements,
        "</g>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _pair(point: Point) -> str:
    return f"{_number(point[0])} {_number(point[1])}"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
