"""Small charts as SVG: bars over time, without axes. Colours are classes of the style sheet."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from fractal_rm.domain.safe_text import safe_block
from fractal_rm.web.pages.numbers.figures import FlowFigures

HEIGHT = 28  # of a chart, in its own units; the style sheet says how large it is on a page
STEP, BAR = 4, 3  # a bar of 3 units, and a gap
LEAST = 2  # a number above 0 is always visible
_CHART = Markup(
    '<svg class="spark" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img"'
    ' shape-rendering="crispEdges"><title>{label}</title>{paths}</svg>'
)
_PATH = Markup('<path class="fill-{tone}" d="{d}"/>')


def bars(label: str, *series: tuple[str, Sequence[float | None]]) -> Markup:
    """A chart of bars. Each series is a tone and its numbers; later series stand on earlier ones.

    The highest bar has the full height. A tone is a class without ``fill-``, such as ``accent``.
    ``label`` says the same in words: it is the name of the chart, and shown for the mouse.
    """
    count = max((len(numbers) for _, numbers in series), default=0)
    columns = [[numbers[at] or 0 for _, numbers in series] for at in range(count)]
    most = max(map(sum, columns), default=0)
    floors = [HEIGHT] * count
    paths: list[Markup] = []
    for row, (tone, _) in enumerate(series):
        d = ""
        for at, column in enumerate(columns):
            height = _height(column[row], most, floors[at])
            if height:
                floors[at] -= height
                d += f"M{at * STEP} {floors[at]}h{BAR}v{height}h-{BAR}z"
        if d:
            paths.append(_PATH.format(tone=tone, d=d))
    line = f"M0 {HEIGHT - 1}h{count * STEP - 1}v1H0z"
    ground = _PATH.format(tone="ground", d=line) if count else Markup()
    return _CHART.format(
        width=max(1, count * STEP - 1), height=HEIGHT, label=safe_block(label),
        paths=ground + Markup().join(paths),
    )  # fmt: skip


def share_bar(label: str, tone: str, share: float) -> Markup:
    """A horizontal bar that is filled up to ``share`` (0 to 1)."""
    width = round(100 * min(1.0, max(0.0, share)))
    filled = _PATH.format(tone=tone, d=f"M0 0h{width}v6H0z")
    return Markup(
        '<svg class="share" viewBox="0 0 100 6" preserveAspectRatio="none" role="img">'
        "<title>{}</title>{}{}</svg>"
    ).format(safe_block(label), _PATH.format(tone="ground", d="M0 0h100v6H0z"), filled)


def _height(number: float, most: float, room: int) -> int:
    """The height of a bar in whole units; 0 only for the number 0."""
    if number <= 0 or most <= 0:
        return 0
    return min(room, max(LEAST, round(number / most * HEIGHT)))


def chart_of(figures: FlowFigures) -> Markup:
    """The runs of a flow in the last 24 hours: accepted, and those in trouble."""
    trouble = [bad for _, bad in figures.by_hour]
    good = [max(0, all_runs - bad) for all_runs, bad in figures.by_hour]
    accepted = sum(all_runs for all_runs, _ in figures.by_hour)
    label = f"last 24 hours: {accepted:,} runs accepted, {sum(trouble):,} in trouble"
    return bars(label, ("fail", trouble), ("accent", good))
