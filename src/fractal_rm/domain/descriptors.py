"""Recognizes the error that no file descriptor is free in the process or the system."""

from __future__ import annotations

import errno

_NUMBERS = frozenset({errno.EMFILE, errno.ENFILE})


def is_out_of_descriptors(error: BaseException) -> bool:
    """Whether the error is EMFILE or ENFILE: the operation may succeed when one is free."""
    return isinstance(error, OSError) and error.errno in _NUMBERS
