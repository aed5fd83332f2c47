"""The two forms of a log line: for people, and as JSON for programs."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from typing import Any

MAX_FIELD_LENGTH = 500


def logfmt(name: str, fields: dict[str, object]) -> str:
    """Format an event as ``name key=value …``.

    A long value is shortened. A value with spaces is quoted.
    """
    return " ".join([name, *(f"{key}={_value(value)}" for key, value in fields.items())])


def _value(value: object) -> str:
    text = _shortened(value if isinstance(value, str) else str(value))
    # Values that come from other machines may contain line breaks or control characters.
    if not text.isprintable():
        text = ascii(text)[1:-1]
    plain = text and not any(c in text for c in ' "=')
    return text if plain else '"' + text.replace('"', '\\"') + '"'


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_FIELD_LENGTH else text[:MAX_FIELD_LENGTH] + "…"


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, object] | None:
    """The fields of an event. None: the record is a text of a library."""
    return getattr(record, "fields", None)


class HumanFormat(logging.Formatter):
    """Formats a record as one line. If the record has a traceback, more lines follow."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line: time, level, event and fields."""
        fields, message = _fields(record), record.getMessage()
        text = message if fields is None else logfmt(message, fields)
        line = f"{_time(record)} {record.levelname.lower()} {text}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormat(logging.Formatter):
    """Formats a record as one JSON object in one line, in ASCII.

    The keys ``time``, ``level`` and ``event`` come first, then the fields of the event. A text of a
    library has the event ``library``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields, message = _fields(record), record.getMessage()
        line: dict[str, Any] = {"time": _time(record), "level": record.levelname.lower()}
        if fields is None:
            line |= {"event": "library", "logger": record.name, "text": _shortened(message)}
        else:
            line["event"] = message
            line |= {key: _json_value(value) for key, value in fields.items() if key not in line}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def _json_value(value: object) -> object:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and value - value == 0:  # neither infinite nor NaN
        return value
    return _shortened(value if isinstance(value, str) else str(value))
