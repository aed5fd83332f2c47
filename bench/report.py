"""Shows figures as lines in a terminal, as JSON, as a table in Markdown, and as plots."""

from __future__ import annotations

import os
import platform
import sqlite3
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import pygal
from pygal.style import Style

from bench.measure import Figure

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "performance.md"
BEGIN, END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"
STYLE = Style(
    background="white", plot_background="white", font_family="sans-serif",
    colors=("#1f6f8b", "#c9a227", "#99627a", "#7a8b99"), label_font_size=13, title_font_size=16,
    value_font_size=13, legend_font_size=13, major_label_font_size=13, value_colors=("#222",) * 4,
)  # fmt: skip


def merge_runs(runs: list[list[Figure]]) -> list[Figure]:
    """Merge three runs of a workload: the medians of a figure become its rounds."""
    of_each = [{(f.load, f.system, f.what): f for f in run} for run in runs]
    merged = []
    for place, figure in of_each[0].items():
        medians = [found[place].median for found in of_each if place in found]
        note = "; ".join(filter(None, (figure.note, "median of three runs")))
        merged.append(replace(figure, rounds=medians, note=note))
    return merged


def heading(number: str, text: str | None) -> str:
    """The line before the figures of a workload."""
    return f"\n{number}. {(text or '').partition(chr(10))[0]}"


def line(figure: Figure) -> str:
    """One figure, for a terminal."""
    low, high = number(min(figure.rounds)), number(max(figure.rounds))
    spread = f"{low} to {high}" if len(figure.rounds) > 1 else ""
    what = f"{figure.load}: {figure.what}" if figure.load else figure.what
    return (
        f"   {figure.system:<24} {what:<44} {shown(figure):>14}  {spread:<20}"
        f" {verdict(figure):<24} {figure.note}"
    ).rstrip()


def number(value: float) -> str:
    """A number as text: three digits below 1, one decimal below 100, else none."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 1 else f"{value:.1f}"


def verdict(figure: Figure) -> str:
    """Whether a figure is within its bounds."""
    if figure.at_least is None or figure.aim is None:
        return ""
    if not figure.holds(figure.at_least):
        return f"MISSED {number(figure.at_least)}"
    reached = "reached" if figure.holds(figure.aim) else f"holds {number(figure.at_least)}, not"
    return f"{reached} the aim of {number(figure.aim)}"


def machine() -> dict[str, str]:
    """The machine and the versions with which the figures were measured."""
    cpu = next(
        (text.partition(":")[2].strip() for text in Path("/proc/cpuinfo").read_text().splitlines()
         if text.startswith("model name")), platform.machine(),
    )  # fmt: skip
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
    """Write bench/results and the page. Figures of workloads that were not measured stay."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "results.json"
    kept = msgspec.json.decode(path.read_bytes()) if path.exists() else {"figures": []}
    measured = {figure.workload for figure in figures}
    old = [Figure(**each) for each in kept["figures"] if each["workload"] not in measured]
    everything = sorted(old + figures, key=lambda figure: int(figure.workload))
    content = {"machine": machine(), "figures": [asdict(figure) for figure in everything]}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
    (RESULTS / "table.md").write_text(table(everything))
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(everything)}\n{END}{rest.partition(END)[2]}")
    plot(everything)


def table(figures: list[Figure]) -> str:
    """All figures in Markdown; those with a load are in a second table."""
    rows = [
        "| workload | system | measured | median | lowest to highest | bound | aim | note |",
        "|---|---|---|---:|---|---:|---:|---|",
    ]
    for f in figures:
        if f.load:
            continue
        spread = f"{number(min(f.rounds))} to {number(max(f.rounds))}" if len(f.rounds) > 1 else ""
        bounds = [number(bound) if bound is not None else "" for bound in (f.at_least, f.aim)]
        cells = [f.workload, f.system, f.what, shown(f), spread, *bounds, f.note]
        rows.append(f"| {' | '.join(cells)} |")
    about = "; ".join(f"{name} {value}" for name, value in machine().items())
    return f"{about}.\n\n" + "\n".join([*rows, "", *load_table(figures)]) + "\n"


def load_table(figures: list[Figure]) -> list[str]:
    """A row for each load and system, and a column for each kind of figure."""
    loaded = [figure for figure in figures if figure.load]
    if not loaded:
        return []
    columns = list(dict.fromkeys(figure.what for figure in loaded))
    lines: dict[tuple[str, str], dict[str, Figure]] = {}
    for figure in loaded:
        lines.setdefault((figure.load, figure.system), {})[figure.what] = figure
    rows = [
        f"| triggers | system | {' | '.join(columns)} | note |",
        f"|---|---|{'---:|' * len(columns)}---|",
    ]
    for (load, system), found in lines.items():
        values = [shown(found[what]) if what in found else "" for what in columns]
        notes = "; ".join(dict.fromkeys(f.note for f in found.values() if f.note))
        rows.append(f"| {load} | {system} | {' | '.join(values)} | {notes} |")
    return rows


def shown(figure: Figure) -> str:
    """The median with its unit."""
    return f"{number(figure.median)} {figure.unit}".strip()


def plot(figures: list[Figure]) -> None:
    """Draw flows a second, and the CPU time of a flow."""
    for name, what, title in (
        ("flows", "flows/s", "flows per second, more is better"),
        ("cpu", "CPU per flow", "µs of CPU for each flow, less is better"),
    ):
        bars = [f for f in figures if f.workload == "1" and f.what == what]
        chart = pygal.HorizontalBar(
            style=STYLE, js=[], show_legend=False, print_values=False, width=760, height=300,
            margin=12, title=title, explicit_size=True, show_x_guides=False, show_y_guides=False,
            show_x_labels=False, value_formatter=lambda value: f"{value:,.0f}",
        )  # fmt: skip
        chart.x_labels = [f"{bar.system}: {bar.median:,.0f}" for bar in reversed(bars)]
        chart.add("", [round(bar.median) for bar in reversed(bars)])
        (RESULTS / f"{name}.svg").write_bytes(chart.render(is_unicode=False))
