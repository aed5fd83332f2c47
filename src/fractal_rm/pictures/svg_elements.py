"""Makes SVG elements: black texts and lines. Lengths are in pixels.

The font is monospaced, so the width of a text can be computed without the font.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

MONO = "'DejaVu Sans Mono','Liberation Mono',Menlo,Consolas,monospace"
SANS = "'DejaVu Sans','Liberation Sans',Helvetica,Arial,sans-serif"
CHARACTER_WIDTH = 0.602  # the width of a character of DejaVu Sans Mono, at font size 1
WIDEST_CHARACTER = 0.61  # the same, for the widest of the fonts in MONO
GREY = "#ececec"

MOST_TO_SHRINK = 600  # the width of a picture that can still be read when it is 350 wide
Point = tuple[float, float]


def text_width(text: str) -> int:
    """The width of a text in characters. A Chinese, Japanese or Korean character counts as two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def characters_that_fit(width: float, size: float) -> int:
    """The number of characters of font size ``size`` that fit into ``width``."""
    return int(width / (size * WIDEST_CHARACTER))


def shorten(text: str, max_width: int) -> str:
    """The text. If it is wider than ``max_width`` characters, "…" replaces its middle."""
    if text_width(text) <= max_width:
        return text
    kept_width = max(max_width - 1, 0)
    tail_width = kept_width // 2
    head = _beginning(text, kept_width - tail_width)
    tail = _beginning(text[::-1], tail_width)[::-1]
    return f"{head}…{tail}"


def wrap(text: str, width: int, max_lines: int) -> list[str]:
    """The lines of the text. If it needs more than ``max_lines``, "…" replaces its middle."""
    room = width * max_lines
    while True:
        lines = _break_lines(shorten(text, room), width)
        if len(lines) <= max_lines:
            return lines
        room -= width // 8 + 1


def _break_lines(text: str, width: int) -> list[str]:
    lines: list[str] = []
    while text_width(text) > width:
        part = _beginning(text, width)
        space = part.rfind(" ")
        end = space if space > len(part) // 2 else len(part)
        lines.append(text[:end])
        text = text[end:].lstrip(" ")
    return [*lines, text]


def _beginning(text: str, max_width: int) -> str:
    """The beginning of a text: as many characters as fit into ``max_width``."""
    width = 0
    for at, char in enumerate(text):
        width += text_width(char)
        if width > max_width:
            return text[:at]
    return text


def text(
    at: Point, content: str, size: float = 12, *, bold: bool = False, right: bool = False,
    fill: str = "black", sans: bool = False,
) -> str:  # fmt: skip
    """A line of text. ``at`` is the left end of its base line, or the right end if ``right``."""
    attributes = ' font-weight="bold"' if bold else ""
    attributes += ' text-anchor="end"' if right else ""
    attributes += f' fill="{fill}" stroke="none"'
    attributes += f' font-family="{SANS}"' if sans else ""
    x, y = at
    position = f'x="{_number_text(x)}" y="{_number_text(y)}" font-size="{_number_text(size)}"'
    return f"<text {position}{attributes}>{escape(printable(content))}</text>"


def toned_text(at: Point, content: str, tone: str) -> str:
    """A line of text in the colour of a tone, which the style sheet of pages has."""
    x, y = at
    position = f'x="{_number_text(x)}" y="{_number_text(y)}" font-size="12" font-weight="bold"'
    return f'<text {position} class="fill-{tone}" stroke="none">{escape(printable(content))}</text>'


def linked(address: str, element: str) -> str:
    """An element that leads to an address."""
    return f"<a href={quoteattr(address)}>{element}</a>"


def printable(content: str) -> str:
    """The text. U+FFFD replaces each character that is not printable."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in content)


def path(points: Iterable[Point], attributes: str = "") -> str:
    """A line through points."""
    first, *others = points
    commands = f"M{_point_text(first)}" + "".join(f"L{_point_text(point)}" for point in others)
    return f'<path d="{commands}"{attributes}/>'


def shape(commands: str, attributes: str = "") -> str:
    """A path from its SVG commands."""
    return f'<path d="{commands}"{attributes}/>'


def arrow(points: Iterable[Point], attributes: str = "") -> str:
    """A line through points, with an arrow head. Its last part must be horizontal or vertical."""
    line = list(points)
    (x0, y0), (x, y) = line[-2:]
    length = max(abs(x - x0), abs(y - y0)) or 1
    along, across = (x - x0) / length, (y - y0) / length
    line[-1] = (x - 6 * along, y - 6 * across)
    left = (x - 8 * along + 4 * across, y - 8 * across + 4 * along)
    right = (x - 8 * along - 4 * across, y - 8 * across - 4 * along)
    head = f"M{_point_text((x, y))}L{_point_text(left)}L{_point_text(right)}Z"
    return path(line, attributes) + shape(head, ' fill="black" stroke="none"')


def circle(at: Point, radius: float, attributes: str = "") -> str:
    """A circle around a point."""
    x, y = at
    position = f'cx="{_number_text(x)}" cy="{_number_text(y)}"'
    return f'<circle {position} r="{_number_text(radius)}"{attributes}/>'


def rectangle(
    at: Point, width: float, height: float, radius: float = 0, attributes: str = ""
) -> str:
    """A rectangle. ``at`` is its upper left corner."""
    x, y = at
    size = f'width="{_number_text(width)}" height="{_number_text(height)}"'
    position = f'x="{_number_text(x)}" y="{_number_text(y)}"'
    return f'<rect {position} {size} rx="{_number_text(radius)}"{attributes}/>'


def translate(elements: Iterable[str], by: Point) -> str:
    """Elements that are moved by the vector ``by``."""
    return f'<g transform="translate({_point_text(by)})">{"".join(elements)}</g>'


def page(elements: Iterable[str], width: float, height: float, title: str) -> str:
    """An SVG document with a white background."""
    w, h = _number_text(width), _number_text(height)
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


def part_of_page(elements: Iterable[str], width: float, height: float, label: str) -> str:
    """An SVG element for a page, whose style sheet has colours and fonts. ``label`` names it.

    A narrow picture fits on a phone when it is made smaller. A wide one is scrolled.
    """
    kind = "picture" if width <= MOST_TO_SHRINK else "picture wide"
    w, h = _number_text(width), _number_text(height)
    named = f'role="group" aria-label={quoteattr(printable(label))}'
    lines = [
        f'<svg class="{kind}" {named} width="{w}" height="{h}" viewBox="0 0 {w} {h}">',
        '<g fill="none" stroke="black" stroke-width="1.2">',
        *elements,
        "</g>",
        "</svg>",
    ]
    return "\n".join(lines)


def _point_text(point: Point) -> str:
    x, y = point
    return f"{_number_text(x)} {_number_text(y)}"


def _number_text(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
