"""Durations, numbers and quotations of a story."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

MAX_QUOTED = 120  # characters of a text from outside in one sentence
MAX_REASON = 400  # characters of a reason in one sentence
_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000


def duration(ms: float) -> str:
    """A duration for people: ``8.2 ms``, ``250 ms``, ``1.43 s``, ``2 min 5 s``, ``3 h 12 min``."""
    if ms < 10:
        return f"{ms:.1f} ms".replace(".0 ms", " ms")
    if ms < _SECOND:
        return f"{ms:.0f} ms"
    if ms < _MINUTE:
        return f"{ms / _SECOND:.3g} s"
    if ms < _HOUR:
        return _two_units(ms, _MINUTE, "min", _SECOND, "s")
    if ms < _DAY:
        return _two_units(ms, _HOUR, "h", _MINUTE, "min")
    return _two_units(ms, _DAY, "d", _HOUR, "h")


def _two_units(ms: float, unit: int, name: str, smaller: int, smaller_name: str) -> str:
    whole, rest = divmod(int(ms), unit)
    part = rest // smaller
    return f"{whole:,} {name} {part} {smaller_name}" if part else f"{whole:,} {name}"


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun: ``1 run``, ``3 runs``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(number: int) -> str:
    """A number of bytes for people."""
    if number < 10_000:
        return count(number, "byte")
    if number < 10_000_000:
        return f"{number / 1000:,.0f} kB"
    if number < 10_000_000_000:
        return f"{number / 1_000_000:,.0f} MB"
    return f"{number / 1_000_000_000:,.0f} GB"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: ``1``, ``1 and 2``, ``1, 2 and 3``."""
    if len(names) <= 1:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def quoted(text: str, most: int = MAX_QUOTED) -> str:
    """A text from outside in quotation marks, cut to ``most`` characters."""
    return f'"{cut(text, most)}"'


def cut(text: str, most: int = MAX_REASON) -> str:
    """A text, cut to ``most`` characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def sentence(text: str) -> str:
    """A reason as a sentence: with a capital letter and a full stop."""
    text = text.strip()
    if not text:
        return ""
    if text.startswith(("http:", "https:")):
        return text
    end = "" if text.endswith((".", "!", "?", "…")) else "."
    return text[0].upper() + text[1:] + end


def seconds(ms: float) -> str:
    """A setting of the flow, such as DEADLINE, as seconds: ``5 s``, ``0.2 s``."""
    return duration(ms) if ms >= _MINUTE else f"{ms / 1000:g} s"


def result_words(result: msgspec.Raw, data: bytes | msgspec.UnsetType, most: int) -> str:
    """The start of a result on one line; empty if it is null."""
    if data is not msgspec.UNSET:
        return f"{size(len(data))} that are not text"
    text = bytes(memoryview(result)[: 8 * most]).decode("utf-8", "replace")
    if text.startswith('"') and len(result) <= 8 * most:
        text = msgspec.json.decode(result, type=str)
    text = " ".join(text.split())
    return "" if text == "null" else cut(text, most)


def upper(text: str) -> str:
    """A text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]
