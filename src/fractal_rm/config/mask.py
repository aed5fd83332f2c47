"""Masks secrets in lines of files, because findings show these lines."""

from __future__ import annotations

import re
from functools import lru_cache

from fractal_rm.domain.findings import nearest
from fractal_rm.domain.late_import import late_import
from fractal_rm.domain.masking.secrets import SECRET_KEYS

# The values of these keys, and of keys with a similar name, are masked.
LONGEST_KEY = 32  # a longer key is never similar to a key of SECRET_KEYS
# Less similar keys are masked only if their value is a text or a number: a typing error in
# "password" is more probable than an object there.
ALIKE = 0.8
# A piece of JSON. The pattern also accepts invalid JSON: single quotes, words without quotes, and
# texts without an end.
_PIECE = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|[^\s{}\[\]"',:=]+)(?P<key>\s*[:=])?"""
    r"|(?P<opens>[{\[])|(?P<closes>[}\]])"
)


def mask(text: str) -> str:
    """Return ``text`` with each character in the values of secret keys replaced by a star."""
    parts: list[str] = []
    end, depth = 0, 0  # the end of the text that is in `parts`, and the number of open brackets
    secret_depth = None  # the depth of the secret key whose value is being read
    likeness = 0.0  # that of this key
    for piece in _PIECE.finditer(text):
        if depth == secret_depth and piece["opens"] and likeness < ALIKE:
            secret_depth = None  # such as a component with the name "store"
        if secret_depth is not None and piece["text"] and not piece["key"]:
            parts += [text[end : piece.start()], _stars(piece["text"])]
            end = piece.end()
        depth += bool(piece["opens"]) - bool(piece["closes"])
        if secret_depth is None or depth <= secret_depth:
            likeness = _likeness_of(piece)
            secret_depth = depth if likeness else None
    return "".join(parts) + text[end:]


def _likeness_of(piece: re.Match[str]) -> float:
    text = piece["text"]
    return _likeness(text.strip("\"'")) if text and len(text) <= LONGEST_KEY else 0.0


@lru_cache(maxsize=1_000)  # a large list often has many equal values
def _likeness(name: str) -> float:
    """How much a name is like that of a secret key, from 0 (not at all) to 1."""
    key = nearest(name, SECRET_KEYS)
    if key is None or sorted(key) == sorted(name.lower()):
        return 0.0 if key is None else 1.0
    return late_import("difflib").SequenceMatcher(None, name.lower(), key).ratio()


def _stars(text: str) -> str:
    """Return a star for each character of ``text``. Quotes around ``text`` are kept."""
    start = text[0] if text[0] in "\"'" else ""
    end = start if len(text) > 1 and text.endswith(start) else ""
    return start + "*" * (len(text) - len(start) - len(end)) + end
