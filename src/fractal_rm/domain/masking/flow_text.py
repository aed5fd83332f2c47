"""Masks secrets that are written into flows, such as ``HEADER Authorization "Bearer …"``."""

from __future__ import annotations

import re

from fractal_rm.domain.masking.secrets import SecretMask

# A header or a parameter whose value is written in the flow, and not taken from a payload.
_WRITTEN_VALUE = re.compile(r'(\s*(?:HEADER|QUERY)\s+)(\S+)(\s+)("(?:[^"\\]|\\.)*")(.*)', re.DOTALL)
_mask = SecretMask(())


def masked_flow_line(line: str) -> str:
    """A line of flows.conf without the secrets that are written there."""
    written = _WRITTEN_VALUE.fullmatch(line)
    if written is None:
        return _mask.text(line)
    keyword, name, space, value, rest = written.groups()
    masked = _mask.header(name, value[1:-1])
    return f'{keyword}{name}{space}"{masked}"{rest}' if masked != value[1:-1] else line
