"""Names from outside in sentences."""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


def plain_name(text: str) -> str:
    """A name as it is, if it has only letters, digits and ``.``, ``_``, ``-``; otherwise quoted.

    It is cut to 60 characters.
    """
    return text if _PLAIN.fullmatch(text) else f"{text!r:.60}"
