"""What can be wrong with a key of a configuration file: codes and texts for all formats."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from fractal_rm.domain.findings import did_you_mean


class KeyFault(NamedTuple):
    """The code, the text and the help of a finding about a key."""

    code: str
    text: str
    help: str | None = None


def missing(path: str) -> KeyFault:
    """A required key is missing or empty."""
    return KeyFault("C204", f"{path} is missing")


def unknown(path: str, key: str, known: Collection[str]) -> KeyFault:
    """A key is not known."""
    return KeyFault("C203", f"{path} is not known", did_you_mean(key, known))


def wrong_type(path: str, wanted: Sequence[str], hint: str | None = None) -> KeyFault:
    """A value has none of the ``wanted`` types, given in words."""
    return KeyFault("C205", f"{path} must be {' or '.join(wanted)}", hint)


def out_of_range(path: str, at_least: float, at_most: float) -> KeyFault:
    """A number is too small or too large."""
    return KeyFault("C206", f"{path} must be from {at_least} to {at_most}")


def not_allowed(path: str, text: str, allowed: Collection[str]) -> KeyFault:
    """A text is not one of the allowed texts."""
    return KeyFault("C206", f'{path} is "{text}"', did_you_mean(text, allowed))
