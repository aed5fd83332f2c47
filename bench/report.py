"""Writes figures as lines for a terminal, as JSON, as tables in Markdown, and as plots."""

from __future__ import annotations

import os
import platform
import sqlite3
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import pygal
from pygal.style import Style

from bench.measure import Figure

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "performance.md"
BEGIN_MARK, END_MARK = "<!-- figures: written by make bench -->", "<!-- end of figures -->"
STYLE = Style(
    background="white", plot_background="white", font_family="sans-serif",
    colors=("#1f6f8b", "#c9a227", "#99627a", "#7a8b99"), label_font_size=13, title_font_size=16,
    value_font_size=13, legend_font_size=13, major_label_font_size=13, value_colors=("#222",) * 4,
)  # fmt: skip


def merge_runs(runs: list[list[Figure]]) -> list[Figure]:
    """Merge three runs of a workload: a merged figure has the median of each run as a round."""
    figures_by_run = [{(f.rate_name, f.system, f.quantity): f for f in run} for run in runs]
    merged = []
    for key, figure in figures_by_run[0].items():
        medians = [figures[key].median for figures in figures_by_run if key in figures]
        note = "; ".join(filter(None, (figure.note, "median of three runs")))
        merged.append(msgspec.structs.replace(figure, rounds=medians, note=note))
    return merged


def workload_heading(number: str, docstring: str | None) -> str:
    """The line above the figures of a workload: its number, and the first line of its docstring."""
    return f"\n{number}. {(docstring or '').partition(chr(10))[0]}"


def figure_line(figure: Figure) -> str:
    """The line that shows a figure on a terminal."""
    name = f"{figure.rate_name}: {figure.quantity}" if figure.rate_name else figure.quantity
    return (
        f"   {figure.system:<24} {name:<44} {median_text(figure):>14}  {range_text(figure):<20}"
        f" {bound_result(figure):<40} {figure.note}"
    ).rstrip()


def number_text(value: float) -> str:
    """A number as text: three digits below 10, one decimal below 100, else no decimals."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 10 else f"{value:.1f}"


def range_text(figure: Figure) -> str:
    """The lowest and the highest value of the rounds; empty if there is only one round."""
    if len(figure.rounds) == 1:
        return ""
    return f"{number_text(min(figure.rounds))} to {number_text(max(figure.rounds))}"


def bound_text(figure: Figure, bound: float | None) -> str:
    """A bound as text, such as "≤ 250" or "≥ 12"; empty if there is no bound."""
    if bound is None:
        return ""
    return f"{'≥' if figure.more_is_better else '≤'} {number_text(bound)}"


def bound_result(figure: Figure) -> str:
    """Whether a figure is within its bound and its aim; empty if the figure has no bounds."""
    if figure.bound is None or figure.aim is None:
        return ""
    bound, aim = bound_text(figure, figure.bound), bound_text(figure, figure.aim)
    if not figure.is_within(figure.bound):
        return f"MISSES the bound {bound}"
    if not figure.is_within(figure.aim):
        return f"meets the bound {bound}, but not the aim {aim}"
    return f"meets the aim {aim}"


def machine() -> dict[str, str]:
    """The day of the measurement, the machine, and the versions of the software."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    models = (value.strip() for name, _, value in lines if name.startswith("model name"))
    cpu = next(models, platform.machine())
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return {
        "day": datetime.now(timezone.utc).date().isoformat(),
        "processor": f"{cpu}, {os.cpu_count()} cores",
        "memory": f"{memory_gib:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def save(figures: list[Figure]) -> None:
    """Write the figures to bench/results and to the performance page of the documentation.

    For a workload without new figures, the saved figures of an earlier measurement are kept.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "results.json"
    last = msgspec.json.decode(path.read_bytes()) if path.exists() else {"figures": []}
    measured = {figure.workload for figure in figures}
    last_figures = [msgspec.convert(each, Figure) for each in last["figures"]]
    kept_figures = [figure for figure in last_figures if figure.workload not in measured]
    all_figures = sorted(kept_figures + figures, key=lambda figure: int(figure.workload))
    content = {"machine": machine(), "figures": all_figures}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
    tables = markdown_tables(all_figures, machine())
    (RESULTS / "table.md").write_text(tables)
    text_before, _, remainder = PAGE.read_text().partition(BEGIN_MARK)
    _, _, text_after = remainder.partition(END_MARK)
    PAGE.write_text(f"{text_before}{BEGIN_MARK}\n\n{tables}\n{END_MARK}{text_after}")
    plot(all_figures)


def markdown_tables(figures: list[Figure], measured_on: dict[str, str]) -> str:
    """The two tables in Markdown: figures by trigger rate are in the second one."""
    rows = [
        "| workload | system | quantity | median | lowest to highest | bound | aim | note |",
        "|---|---|---|---:|---|---:|---:|---|",
    ]
    for figure in figures:
        if figure.rate_name:
            continue
        cells = [
            figure.workload,
            figure.system,
            figure.quantity,
            median_text(figure),
            range_text(figure),
            bound_text(figure, figure.bound),
            bound_text(figure, figure.aim),
            figure.note,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    about = "; ".join(f"{name} {value}" for name, value in measured_on.items())
    lines = [f"Day and machine of the measurement: {about}.", "", *rows, "", *rate_table(figures)]
    return "\n".join(lines) + "\n"


def rate_table(figures: list[Figure]) -> list[str]:
    """The lines of the table of figures by trigger rate; empty if there are no such figures.

    The table has a row for each rate and system, and a column for each quantity.
    """
    by_rate = [figure for figure in figures if figure.rate_name]
    if not by_rate:
        return []
    columns = list(dict.fromkeys(figure.quantity for figure in by_rate))
    figures_by_row: dict[tuple[str, str], dict[str, Figure]] = {}
    for figure in by_rate:
        figures_by_row.setdefault((figure.rate_name, figure.system), {})[figure.quantity] = figure
    lines = [
        f"| triggers | system | {' | '.join(columns)} | note |",
        f"|---|---|{'---:|' * len(columns)}---|",
    ]
    for (rate_name, system), by_column in figures_by_row.items():
        values = [median_text(by_column[name]) if name in by_column else "" for name in columns]
        notes = "; ".join(dict.fromkeys(f.note for f in by_column.values() if f.note))
        lines.append(f"| {rate_name} | {system} | {' | '.join(values)} | {notes} |")
    return lines


def median_text(figure: Figure) -> str:
    """The median with its unit."""
    return f"{number_text(figure.median)} {figure.unit}".strip()


def plot(figures: list[Figure]) -> None:
    """Write two bar charts as SVG: the flows per second, and the CPU time of a flow."""
    for name, quantity, title in (
        ("flows", "flows/s", "flows per second, more is better"),
        ("cpu", "CPU time per flow", "µs of CPU time for each flow, less is better"),
    ):
        bars = [f for f in figures if f.workload == "1" and f.quantity == quantity]
        chart = pygal.HorizontalBar(
            style=STYLE, js=[], show_legend=False, print_values=False, width=760, height=300,
            margin=12, title=title, explicit_size=True, show_x_guides=False, show_y_guides=False,
            show_x_labels=False, value_formatter=lambda value: f"{value:,.0f}",
        )  # fmt: skip
        chart.x_labels = [f"{bar.system}: {bar.median:,.0f}" for bar in reversed(bars)]
        chart.add("", [round(bar.median) for bar in reversed(bars)])
        (RESULTS / f"{name}.svg").write_bytes(chart.render(is_unicode=False))
