"""Reads a point in time as operators write it, such as ``6h`` or ``2026-11-29T14:02:00Z``."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from fractal_rm.domain.errors import FractalError

MAX_MS = 253_402_300_799_999  # the end of the year 9999
FORMS = (
    "a time with its zone (2026-11-29T14:02:00Z), a duration before now (90s, 15m, 6h, 7d), or"
    " milliseconds since 1970"
)
_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_AGO = re.compile(r"([0-9]{1,9})([smhd])")
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
# All forms, for descriptions of interfaces. Some texts of these forms are no times: February 30.
PATTERN = (
    r"^([0-9]{1,9}[smhd]|[0-9]{1,15}|[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt ]"
    r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?([Zz]|[+-][0-9]{2}:[0-9]{2}))$"
)
_FRACTION = re.compile(r"\.([0-9]+)")
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class NotATime(FractalError):
    """A text is not a point in time. The message names the forms that are read."""

    code = "not-a-time"


def read_time(text: str, now_ms: int) -> int:
    """A point in time, in milliseconds since 1970. ``now_ms`` is the wall time now.

    Raises NotATime.
    """
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return max(now_ms - int(ago[1]) * _MS[ago[2]], 0)
    if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_MS)):
        ms = int(text)
    else:
        ms = _ms_of(text)
    if not 0 <= ms <= MAX_MS:
        raise NotATime("the time must be between the years 1970 and 9999")
    return ms


def _ms_of(text: str) -> int:
    if _TIME.fullmatch(text) is None:
        raise NotATime(f"write {FORMS}")
    normal = text.upper().replace(" ", "T").replace("Z", "+00:00")
    # Python 3.10 reads only fractions of three or six digits.
    normal = _FRACTION.sub(lambda match: "." + match[1][:6].ljust(6, "0"), normal)
    try:
        moment = datetime.fromisoformat(normal)
    except ValueError:
        raise NotATime(f"there is no such time; write {FORMS}") from None
    return (moment - _EPOCH) // timedelta(milliseconds=1)
