"""Recognizes the errors that mean that the process or the system has no free file descriptor."""

from __future__ import annotations

import errno

_NUMBERS = frozenset({errno.EMFILE, errno.ENFILE})


def is_out_of_descriptors(error: BaseException) -> bool:
    """Whether the error is EMFILE or ENFILE. The operation may succeed later."""
    return isinstance(error, OSError) and error.errno in _NUMBERS
