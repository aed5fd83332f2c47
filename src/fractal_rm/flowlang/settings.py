"""The settings of the flow language: the lines before the first instruction of a flow.

`SETTINGS` at the end of this file is the table of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Union

import msgspec

from fractal_rm.domain.flow import (
    CatchUp,
    Cron,
    Durability,
    Flow,
    Keep,
    KeepSettings,
    OnError,
    Order,
    QueueSettings,
    StartSettings,
)
from fractal_rm.domain.masking.fields import PATH
from fractal_rm.domain.rate import RATE_HINT, read_rate, similar_rate
from fractal_rm.flowlang.duration import DURATION_HINT, duration_ms
from fractal_rm.flowlang.path import PathError, read_path
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import STRING, Line, Word
from fractal_rm.flowlang.schedule import DayRule, ScheduleError, check_cron, check_zone, day_rule
from fractal_rm.flowlang.topic_words import read_topic_filter
from fractal_rm.flowlang.words import surplus_or_keyword, unquoted

MAX_RUNS = 100_000
_PAYLOAD_PREFIX = "payload."
_LISTED = re.compile(rf"(?:[^\s,\"]|{STRING})+")

# Returns the value; None if it has an error, which is reported.
Reader = Callable[[Line, Report], Any]
Owner = Union[type[Flow], type[StartSettings], type[QueueSettings], type[KeepSettings]]


class Setting(msgspec.Struct, frozen=True):
    """How a setting is read. The value is stored in the field ``field`` of the class ``owner``.

    If ``field`` is empty, the setting has several fields, and the value has them by name.
    ``may_repeat``: a flow may have the setting several times; the field is a tuple of all values.
    """

    owner: Owner
    field: str
    read: Reader
    may_repeat: bool = False


def read_settings(lines: list[Line], report: Report) -> dict[str, Any]:
    """Read the fields of `Flow` that the settings set. Errors become findings."""
    fields: dict[Owner, dict[str, Any]] = {
        Flow: {}, StartSettings: {}, QueueSettings: {}, KeepSettings: {},
    }  # fmt: skip
    # The fields of `StartSettings` that are lists. Each inner dict is an ordered set, because a
    # flow may have thousands of topics.
    lists: dict[str, dict[str, None]] = {}
    line_of_keyword: dict[str, Line] = {}
    for line in lines:
        keyword = line.words[0]
        setting = SETTINGS[keyword.text]
        if keyword.text in line_of_keyword and not setting.may_repeat:
            report.add(
                "F114",
                line,
                keyword,
                f"{keyword.text} is set already",
                f"remove one of them: the other {keyword.text} is in line"
                f" {line_of_keyword[keyword.text].number}",
            )
            continue
        line_of_keyword[keyword.text] = line
        value = setting.read(line, report)
        if value is None:
            continue
        if setting.may_repeat:
            _add_to_list(lists.setdefault(setting.field, {}), value, line, report)
        else:
            fields[setting.owner] |= {setting.field: value} if setting.field else value
    _check_catch_up(line_of_keyword, report)
    fields[StartSettings] |= {field: tuple(values) for field, values in lists.items()}
    if fields[StartSettings]:
        fields[Flow]["starts"] = StartSettings(**fields[StartSettings])
    if fields[QueueSettings]:
        fields[Flow]["queueing"] = QueueSettings(**fields[QueueSettings])
    keeping = KeepSettings(**fields[KeepSettings])
    if keeping != KeepSettings():  # KEEP all is the default
        fields[Flow]["keeping"] = keeping
    return fields[Flow]


def _add_to_list(values: dict[str, None], value: str, line: Line, report: Report) -> None:
    if value in values:
        report.add("F114", line, line.words[1], f"this flow has {line.words[0].text} {value} twice",
                   "remove one of them")  # fmt: skip
    values[value] = None


def _check_catch_up(line_of_keyword: dict[str, Line], report: Report) -> None:
    if "CATCHUP" in line_of_keyword and not {"EVERY", "CRON"} & line_of_keyword.keys():
        line = line_of_keyword["CATCHUP"]
        report.add("F125", line, line.words[0], "CATCHUP needs a schedule",
                   "add EVERY or CRON to the flow, or remove CATCHUP")  # fmt: skip


# --- readers ----------------------------------------------------------------------------------


def _report_wrong_value(
    line: Line, report: Report, allowed_values: str, words: tuple[str, ...] = ()
) -> None:
    """Report a wrong value of a setting. ``allowed_values`` describes the allowed values.

    ``words`` are all allowed values, if they are words.
    """
    keyword, *values = line.words
    wrong_word = values[0] if values else keyword
    similar_word = report.nearest(wrong_word.text, words) if words else None
    report.add("F115", line, wrong_word, f"{keyword.text} takes {allowed_values}",
               similar_word and f'did you mean "{similar_word}"?')  # fmt: skip


def _one_of(allowed: type[Enum]) -> Reader:
    words = tuple(str(each.value) for each in allowed)

    def read(line: Line, report: Report) -> Enum | None:
        if len(line.words) == 2 and line.words[1].text in words:
            return allowed(line.words[1].text)
        return _report_wrong_value(line, report, f"one of: {', '.join(words)}", words)

    return read


def _duration(line: Line, report: Report) -> int | None:
    ms = duration_ms(line.words[1].text) if len(line.words) == 2 else None
    return _report_wrong_value(line, report, DURATION_HINT) if ms is None else ms


def _whole_number(low: int, high: int) -> Reader:
    def read(line: Line, report: Report) -> int | None:
        number = whole_number(line.words[1].text, low, high) if len(line.words) == 2 else None
        return (
            _report_wrong_value(line, report, f"a number from {low} to {high}")
            if number is None
            else number
        )

    return read


def _limit(line: Line, report: Report) -> dict[str, Any] | None:
    """Read ``LIMIT 4``, ``LIMIT 10/s`` or ``LIMIT 4 10/s``: a number of runs, a rate, or both."""
    _, *words = line.words
    number_words = words[:1] if words and "/" not in words[0].text else []
    rate_words = words[len(number_words) :]
    fields: dict[str, Any] = {}
    if number_words:
        fields["limit"] = whole_number(number_words[0].text, 1, MAX_RUNS)
        if fields["limit"] is None:
            return _report_wrong_limit(line, report, number_words[0])
    if rate_words:
        fields["rate"] = read_rate(rate_words[0].text)
        if fields["rate"] is None or len(rate_words) > 1:
            at = rate_words[0] if fields["rate"] is None else rate_words[1]
            return _report_wrong_limit(line, report, at)
    return fields or _report_wrong_limit(line, report, line.words[0])


def _report_wrong_limit(line: Line, report: Report, at: Word) -> None:
    similar = similar_rate(at.text) or similar_rate("".join(word.text for word in line.words[1:]))
    hint = RATE_HINT if "/" in at.text else None
    if len(line.words) == 3 and at is line.words[2] and "/" in line.words[1].text:
        hint = f"write the number of runs before the rate: LIMIT {at.text} {line.words[1].text}"
    report.add("F115", line, at,
               f"LIMIT takes a number of runs from 1 to {MAX_RUNS}, a rate such as 10/s, or both",
               f'did you mean "{similar}"?' if similar else hint)  # fmt: skip


def whole_number(text: str, low: int, high: int) -> int | None:
    """A text as a whole number; None if it is not a whole number, or out of range."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return None
    return int(text) if low <= int(text) <= high else None


def _topic(line: Line, report: Report) -> str | None:
    words = line.quoted_words()
    if len(words) == 2:
        return read_topic_filter(line, words[1], report)
    hint = "write a topic with spaces in quotes"
    if len(words) == 1 and line.text[line.end :].lstrip().startswith("#"):
        hint = 'a comment begins here; for every topic, write: ON "#"'
    report.add("F115", line, surplus_or_keyword(words, 2), "ON takes one topic", hint)
    return None


def _cron(line: Line, report: Report) -> Cron | None:
    """Read ``CRON "0 6 * * 1-5" Europe/Rome``."""
    keyword, *words = line.quoted_words()
    expression = None
    if words and words[0].text.startswith('"'):  # a line from a crontab often has tabs
        expression = unquoted(words[0].text.replace("\t", " "))
    if expression is None or len(words) > 2:
        at = keyword
        if words:  # the first word is not an expression, or there is a third word
            at = words[0] if expression is None else words[2]
        report.add("F132", line, at,
                   "CRON takes five fields in quotes, and a time zone if it is not UTC",
                   'write: CRON "0 6 * * 1-5" Europe/Rome')  # fmt: skip
        return None
    is_valid = _check(check_cron, expression, line, words[0], report)
    if is_valid:
        _warn_of_days(expression, line, words[0], report)
    if len(words) == 1:
        return Cron(expression) if is_valid else None
    zone = words[1]
    is_valid &= _check(check_zone, zone.text, line, zone, report)
    return Cron(expression, zone.text) if is_valid else None


def _warn_of_days(expression: str, line: Line, at: Word, report: Report) -> None:
    """Warn if both fields for days are used, because their combination is easily misunderstood."""
    month_day, week_day = "the day of the month", "the day of the week"
    rule = day_rule(expression)
    if rule is DayRule.EITHER_FIELD:
        report.warn("F145", line, at, f"the flow starts on days that match {month_day} or"
                    f" {week_day}",
                    "as in cron; for the first Monday of a month, write 0 6 * * MON#1")  # fmt: skip
    elif rule is DayRule.BOTH_FIELDS:
        report.warn("F146", line, at,
                    f"the flow starts on days that match both {month_day} and {week_day}",
                    "as in cron, because one of the two fields begins with *")  # fmt: skip


def _check(check: Callable[[str], None], text: str, line: Line, at: Word, report: Report) -> bool:
    try:
        check(text)
    except ScheduleError as error:
        report.add("F132", line, at, str(error),
                   error.hint or report.did_you_mean(text, error.valid_names))  # fmt: skip
        return False
    return True


def _path(line: Line, report: Report) -> str | None:
    """Read ``LATEST path``, a path into the payload."""
    words = line.quoted_words()
    if len(words) != 2:
        return _report_wrong_value(
            line, report, "one path into the payload, in quotes if it has spaces"
        )
    at = words[1]
    if at.text.startswith(_PAYLOAD_PREFIX) or at.text == "payload":
        # In JMESPath, @ is the whole value.
        path = "@" if at.text == "payload" else at.text.removeprefix(_PAYLOAD_PREFIX)
        report.add("F115", line, at, "the path of LATEST always begins at the payload",
                   f"write: LATEST {path};"
                   f' for a field with the name payload, write quotes: "{at.text}"')  # fmt: skip
        return None
    try:
        return read_path(at.text)
    except PathError as error:
        report.add("F121", line, at, str(error), error.hint)
        return None


def _mask(line: Line, report: Report) -> tuple[str, ...] | None:
    """Read ``MASK path, …``."""
    keyword, *_ = line.words
    paths: list[str] = []
    is_valid = True
    for word in _listed(line):
        hint = _wrong_path_hint(word.text)
        if hint is None:
            paths.append(word.text)
        else:
            report.add("F138", line, word, "this is not a path of MASK", hint)
            is_valid = False
    if is_valid and not paths:
        return _report_wrong_value(line, report, "paths of fields, separated by commas")
    if len(set(paths)) < len(paths):
        report.add("F114", line, keyword, "MASK has a path twice", "remove one of them")
        return None
    return tuple(paths) if is_valid else None


def _listed(line: Line) -> Iterator[Word]:
    """Yield the parts of a line between commas and spaces. Quoted parts may contain both."""
    start = line.index_after(line.words[0])
    for match in _LISTED.finditer(line.text, start, line.end):
        yield line.part(match.start(), match.end())


def _wrong_path_hint(path: str) -> str | None:
    """How to correct a path of MASK; None: it is correct."""
    if "[" in path or "]" in path:
        return "remove the brackets: the fields of each element of a list are masked, too"
    first, _, rest = path.partition(".")
    if rest and re.fullmatch(r"payload|result\d+", first):
        return f"a path begins at any field of the payload and of the results: write {rest}"
    if PATH.fullmatch(path) is None:
        return (
            "write names with dots, such as person.name; a name with other characters needs quotes"
        )
    return None


SETTINGS: dict[str, Setting] = {
    "ON": Setting(StartSettings, "topics", _topic, may_repeat=True),
    "EVERY": Setting(StartSettings, "every_ms", _duration),
    "CRON": Setting(StartSettings, "cron", _cron),
    "CATCHUP": Setting(StartSettings, "catch_up", _one_of(CatchUp)),
    "DURABLE": Setting(Flow, "durable", _one_of(Durability)),
    "DEADLINE": Setting(Flow, "deadline_ms", _duration),
    "ERRORS": Setting(Flow, "errors", _one_of(OnError)),
    "ORDER": Setting(Flow, "order", _one_of(Order)),
    "LIMIT": Setting(QueueSettings, "", _limit),
    "PRIORITY": Setting(QueueSettings, "priority", _whole_number(0, 9)),
    "STALE": Setting(QueueSettings, "stale_ms", _duration),
    "LATEST": Setting(QueueSettings, "latest", _path),
    "KEEP": Setting(KeepSettings, "keep", _one_of(Keep)),
    "MASK": Setting(KeepSettings, "mask", _mask),
}
