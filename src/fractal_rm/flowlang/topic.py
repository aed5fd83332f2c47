"""MQTT topics: the names that are published to, the filters that are listened to (MQTT 5, 4.7)."""

from __future__ import annotations

from fractal_rm.domain.topic import MOST_BYTES, SHARED
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.words import unquoted


def read_topic_filter(line: Line, word: Word, report: Report) -> str | None:
    """What messages are listened to. None: there is a finding."""
    return _read(line, word, report, wildcards=True)


def read_topic_name(line: Line, word: Word, report: Report) -> str | None:
    """Where a message is published. None: there is a finding."""
    return _read(line, word, report, wildcards=False)


def _read(line: Line, word: Word, report: Report, *, wildcards: bool) -> str | None:
    topic = unquoted(word.text)
    if topic is None:
        report.add("F131", line, word, "this topic in quotes is not a JSON text")
        return None
    why, hint = _fault(topic) or (_filter_fault(topic) if wildcards else _name_fault(topic))
    if why is None:
        return topic
    report.add("F131", line, word, why, hint)
    return None


_Fault = tuple[str | None, str | None]  # why, and what helps
_NONE: _Fault = None, None


def _fault(topic: str) -> _Fault | None:
    try:
        size = len(topic.encode())
    except UnicodeEncodeError:
        return "half of a surrogate pair cannot be in a topic", None
    if not topic:
        return "a topic has at least one character", None
    if size > MOST_BYTES or "\0" in topic:
        return f"a topic has at most {MOST_BYTES} bytes, and no NUL", None
    return None


def _name_fault(topic: str) -> _Fault:
    for sign in "+#":
        if sign in topic:
            return (f"a message goes to one topic, and {sign} stands for many",
                    "+ and # are for ON only")  # fmt: skip
    return _NONE


def _filter_fault(topic: str) -> _Fault:
    if topic.startswith(SHARED):
        group, slash, shared = topic.removeprefix(SHARED).partition("/")
        if not (group and slash and shared) or {"+", "#"} & set(group):
            return ("this shared subscription has no group or no topic",
                    "it is written: $share/<group>/<topic>")  # fmt: skip
        topic = shared
    *levels, last = topic.split("/")
    if any("#" in level for level in levels) or ("#" in last and last != "#"):
        return ("# stands for everything below, so it is the last level, alone",
                "write: factory/#; for any one level there is +")  # fmt: skip
    if any("+" in level and level != "+" for level in (*levels, last)):
        return "+ stands for one whole level", "write: factory/+/frame"
    return _NONE
