"""Texts of configuration files for people who may read them, but not their secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fractal_rm.config.mask import mask
from fractal_rm.domain.masking.fields import STARS
from fractal_rm.domain.masking.secrets import SecretMask

MAX_SHOWN = 1024 * 1024  # characters: masking and comparing a longer text would take too long
_SECRET_MEMBER = re.compile(
    r'(?P<key>"[^"\n]*(?:passw|passphrase|secret|token|api[-_]?key|private[-_]?key|credential'
    r'|authori[sz]ation|cookie|session[-_]?id)[^"\n]*"\s*:\s*)'
    r'(?P<value>"(?:[^"\\\n]|\\.)*"?|[^\s,}\]{\["]+)',
    re.IGNORECASE,
)
_ADDED = re.compile(r"(?P<lead>\s*(?:HEADER|QUERY)\s+(?P<name>\S+)\s+)(?P<value>.*)")


def shown_text(file: str, text: str, secrets: Iterable[str]) -> str:
    """The text of a file with its secrets as stars; it has the same lines.

    ``secrets`` are masked wherever they are (`config.secrets`), and so are the values of keys,
    headers and parameters with a name like ``password``.
    """
    if len(text) > MAX_SHOWN:
        return f"(this text has {len(text):,} characters, and is not shown here)"
    secret_mask = SecretMask(secrets)
    if file != "flows.conf":
        text = mask(text)
    text = _SECRET_MEMBER.sub(lambda match: f'{match["key"]}"{STARS}"', text)
    return "\n".join(_shown_line(line, secret_mask) for line in text.split("\n"))


def _shown_line(line: str, secret_mask: SecretMask) -> str:
    added = _ADDED.fullmatch(line)
    if added is not None:
        return added["lead"] + secret_mask.header(added["name"], added["value"])
    return secret_mask.plain(line)
