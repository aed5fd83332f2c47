"""Wall times as text, for messages that are read on any machine."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def utc_text(at_ms: int) -> str:
    """Such as ``2026-11-29 14:02:11 UTC``. ``at_ms``: milliseconds since 1970.

    ``N ms`` for a time that the calendar does not have: a damaged clock may have written it.
    """
    try:
        at = _EPOCH + timedelta(milliseconds=at_ms)
    except OverflowError:
        return f"{at_ms} ms"
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")
