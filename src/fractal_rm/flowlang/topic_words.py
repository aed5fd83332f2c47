"""Reads the MQTT topics in a flow: topic names after PUBLISH, topic filters after ON."""

from __future__ import annotations

from collections.abc import Callable

from fractal_rm.domain.topic import Fault, filter_fault, name_fault
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.words import unquoted


def read_topic_filter(line: Line, word: Word, report: Report) -> str | None:
    """Read the topic filter after ON. Reports an error in it, and then returns None."""
    return _read(line, word, report, filter_fault)


def read_topic_name(line: Line, word: Word, report: Report) -> str | None:
    """Read the topic name after PUBLISH. Reports an error in it, and then returns None."""
    return _read(line, word, report, name_fault)


def _read(
    line: Line, word: Word, report: Report, fault_of: Callable[[str], Fault | None]
) -> str | None:
    topic = unquoted(word.text)
    if topic is None:
        report.add("F131", line, word, "this topic in quotes is not a JSON text")
        return None
    fault = fault_of(topic)
    if fault is not None:
        report.add("F131", line, word, fault.why, fault.hint)
        return None
    return topic
