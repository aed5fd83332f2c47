"""When tokens and certificates are warned of, and how the time is written."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

DAY_MS = 86_400_000
WARN_MS = 14 * DAY_MS  # how long before its end a token or a certificate is warned of
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def days_text(left_ms: int) -> str:
    """A time until an expiry, in whole days."""
    days = left_ms // DAY_MS
    return f"{days} days" if days > 1 else "less than 2 days"


def moment_text(at_ms: int) -> str:
    """A time in milliseconds since 1970, as text in UTC."""
    try:
        return f"{_EPOCH + timedelta(milliseconds=at_ms):%Y-%m-%d %H:%M} UTC"
    except OverflowError:
        return f"{at_ms} ms"
