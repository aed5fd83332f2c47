"""Secrets are not shown: a finding shows its line, on the terminal and in answers to programs."""

from __future__ import annotations

import re
from functools import lru_cache

from fractal_rm.domain.findings import nearest

# Under these keys nothing is shown, nor under one that was probably meant to be one of them.
SECRET_KEYS = ("password", "headers")
LONGEST_KEY = 32  # what is longer was meant to be none of them
# What a file that is not quite JSON has too: single quotes, bare words, a text that does not end.
_PIECE = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|[^\s{}\[\]"',:=]+)(?P<key>\s*[:=])?"""
    r"|(?P<opens>[{\[])|(?P<closes>[}\]])"
)


def mask(text: str) -> str:
    """``text`` with every value of a secret key as stars; all else stays where it is."""
    shown: list[str] = []
    at, depth, hidden = 0, 0, None  # ``hidden``: the depth of the secret key that we are under
    for piece in _PIECE.finditer(text):
        if hidden is not None and piece["text"] and not piece["key"]:
            shown += [text[at : piece.start()], _stars(piece["text"])]
            at = piece.end()
        depth += bool(piece["opens"]) - bool(piece["closes"])
        if hidden is None or depth <= hidden:
            hidden = depth if _begins_a_secret(piece) else None
    return "".join(shown) + text[at:]


def _begins_a_secret(piece: re.Match[str]) -> bool:
    text = piece["text"]
    return bool(text) and len(text) <= LONGEST_KEY and _is_secret(text.strip("\"'"))


@lru_cache(maxsize=1_000)  # of a list of a million numbers, most are alike
def _is_secret(name: str) -> bool:
    return nearest(name, SECRET_KEYS) is not None


def _stars(text: str) -> str:
    """As many as there were characters; quotes stay, so that the line reads as one."""
    quote = text[0] if text[0] in "\"'" else ""
    ends = quote if len(text) > 1 and text.endswith(quote) else ""
    return quote + "*" * (len(text) - len(quote) - len(ends)) + ends
