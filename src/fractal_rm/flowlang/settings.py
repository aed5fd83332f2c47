"""What stands between a flow's number and its first instruction: settings, each read by its own."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Union

import msgspec

from fractal_rm.domain.flow import (
    CatchUp,
    Cron,
    Durable,
    Errors,
    Flow,
    Order,
    Queueing,
    Starts,
)
from fractal_rm.flowlang.duration import LIKE, duration_ms
from fractal_rm.flowlang.path import NoPath, read_path
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.schedule import NoSchedule, check_cron, check_zone, days_fit
from fractal_rm.flowlang.topic import read_topic_filter
from fractal_rm.flowlang.words import too_many, unquoted

MOST_RUNS = 100_000
_OWN_PAYLOAD = "payload."

Reader = Callable[[Line, Report], Any]  # the value; None: there is a finding
Part = Union[type[Flow], type[Starts], type[Queueing]]


class Setting(msgspec.Struct, frozen=True):
    """Which field of which part of a flow a keyword fills, and how its line is read."""

    part: Part
    field: str
    read: Reader
    often: bool = False


def read_settings(lines: list[Line], report: Report) -> dict[str, Any]:
    """The fields of `Flow` that the settings fill. What is wrong is a finding."""
    parts: dict[Part, dict[str, Any]] = {Flow: {}, Starts: {}, Queueing: {}}
    lists: dict[str, dict[str, None]] = {}  # a flow may have thousands of topics
    seen: dict[str, Line] = {}
    for line in lines:
        keyword = line.words[0]
        setting = SETTINGS[keyword.text]
        if keyword.text in seen and not setting.often:
            report.add("F114", line, keyword, f"{keyword.text} is set already",
                       f"it is in line {seen[keyword.text].number}")  # fmt: skip
            continue
        seen[keyword.text] = line
        value = setting.read(line, report)
        if value is None:
            continue
        if setting.often:
            _one_more(lists.setdefault(setting.field, {}), value, line, report)
        else:
            parts[setting.part][setting.field] = value
    _check_catch_up(seen, report)
    parts[Starts] |= {field: tuple(values) for field, values in lists.items()}
    made = {"starts": Starts, "queueing": Queueing}
    return parts[Flow] | {name: part(**parts[part]) for name, part in made.items() if parts[part]}


def _one_more(given: dict[str, None], value: str, line: Line, report: Report) -> None:
    if value in given:
        report.add("F114", line, line.words[1], f"this flow has {line.words[0].text} {value} twice")
    given[value] = None


def _check_catch_up(seen: dict[str, Line], report: Report) -> None:
    if "CATCHUP" in seen and not {"EVERY", "CRON"} & seen.keys():
        line = seen["CATCHUP"]
        report.add("F125", line, line.words[0], "CATCHUP has no schedule to make up for",
                   "it stands beside EVERY or CRON")  # fmt: skip


# --- readers ----------------------------------------------------------------------------------


def _only(line: Line, report: Report, takes: str, known: tuple[str, ...] = ()) -> None:
    """Say what a setting takes."""
    keyword, *values = line.words
    wrong = values[0] if values else keyword
    near = report.nearest(wrong.text, known) if known else None
    report.add("F115", line, wrong, f"{keyword.text} takes {takes}",
               near and f'did you mean "{near}"?')  # fmt: skip


def _one_of(allowed: type[Enum]) -> Reader:
    known = tuple(str(each.value) for each in allowed)

    def read(line: Line, report: Report) -> Enum | None:
        if len(line.words) == 2 and line.words[1].text in known:
            return allowed(line.words[1].text)
        return _only(line, report, f"one of: {', '.join(known)}", known)

    return read


def _duration(line: Line, report: Report) -> int | None:
    ms = duration_ms(line.words[1].text) if len(line.words) == 2 else None
    return _only(line, report, LIKE) if ms is None else ms


def _whole(low: int, high: int) -> Reader:
    def read(line: Line, report: Report) -> int | None:
        number = whole(line.words[1].text, low, high) if len(line.words) == 2 else None
        return _only(line, report, f"a number from {low} to {high}") if number is None else number

    return read


def whole(text: str, low: int, high: int) -> int | None:
    """The whole number that a text is, within bounds; None where it is none."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return None
    return int(text) if low <= int(text) <= high else None


def _topic(line: Line, report: Report) -> str | None:
    words = line.quoted_words()
    if len(words) == 2:
        return read_topic_filter(line, words[1], report)
    hint = "a topic with a space in it stands in quotes"
    if len(words) == 1 and line.text[line.end :].lstrip().startswith("#"):
        hint = 'a comment begins here; the filter for every topic stands in quotes: ON "#"'
    report.add("F115", line, too_many(words, 2), "ON takes one topic", hint)
    return None


def _cron(line: Line, report: Report) -> Cron | None:
    """``CRON "0 6 * * 1-5" Europe/Rome``."""
    keyword, *words = line.quoted_words()
    expression = None
    if words and words[0].text.startswith('"'):  # a line of a crontab often has tabs in it
        expression = unquoted(words[0].text.replace("\t", " "))
    if expression is None or len(words) > 2:
        at = keyword if not words else words[0] if expression is None else words[2]
        report.add("F132", line, at,
                   "CRON takes five fields in quotes, and a time zone if it is not UTC",
                   'write: CRON "0 6 * * 1-5" Europe/Rome')  # fmt: skip
        return None
    fits = _is_right(check_cron, expression, line, words[0], report)
    if fits:
        _warn_of_days(expression, line, words[0], report)
    if len(words) == 1:
        return Cron(expression) if fits else None
    zone = words[1]
    fits &= _is_right(check_zone, zone.text, line, zone, report)
    return Cron(expression, zone.text) if fits else None


def _warn_of_days(expression: str, line: Line, at: Word, report: Report) -> None:
    """Two fields say which days: hardly anybody knows by heart how they go together."""
    days = "the day of the month and the day of the week"
    fit = days_fit(expression)
    if fit == "one":
        report.warn("F145", line, at, f"of {days} one must fit",
                    "as in cron; for the first Monday of a month write * and MON#1")  # fmt: skip
    elif fit == "both":
        report.warn("F146", line, at, f"{days} must both fit",
                    "as in cron, where one begins with *; else one need fit only")  # fmt: skip


def _is_right(
    check: Callable[[str], None], text: str, line: Line, at: Word, report: Report
) -> bool:
    try:
        check(text)
    except NoSchedule as fault:
        report.add("F132", line, at, str(fault),
                   fault.hint or report.did_you_mean(text, fault.known))  # fmt: skip
        return False
    return True


def _path(line: Line, report: Report) -> str | None:
    """``LATEST path``: on the payload."""
    words = line.quoted_words()
    if len(words) != 2:
        return _only(line, report, "one path into the payload; with spaces, it stands in quotes")
    at = words[1]
    if at.text.startswith(_OWN_PAYLOAD) or at.text == "payload":
        report.add("F115", line, at, "LATEST takes a path that is within the payload already",
                   f"write: LATEST {at.text.removeprefix(_OWN_PAYLOAD)}; a field that is really"
                   f' named payload stands in quotes: "{at.text}"')  # fmt: skip
        return None
    try:
        return read_path(at.text)
    except NoPath as fault:
        report.add("F121", line, at, str(fault), fault.hint)
        return None


SETTINGS: dict[str, Setting] = {
    "ON": Setting(Starts, "topics", _topic, often=True),
    "EVERY": Setting(Starts, "every_ms", _duration),
    "CRON": Setting(Starts, "cron", _cron),
    "CATCHUP": Setting(Starts, "catch_up", _one_of(CatchUp)),
    "DURABLE": Setting(Flow, "durable", _one_of(Durable)),
    "DEADLINE": Setting(Flow, "deadline_ms", _duration),
    "ERRORS": Setting(Flow, "errors", _one_of(Errors)),
    "ORDER": Setting(Flow, "order", _one_of(Order)),
    "LIMIT": Setting(Queueing, "limit", _whole(1, MOST_RUNS)),
    "PRIORITY": Setting(Queueing, "priority", _whole(0, 9)),
    "STALE": Setting(Queueing, "stale_ms", _duration),
    "LATEST": Setting(Queueing, "latest", _path),
}
