"""Whether an error says that all file descriptors of the process or of the machine are in use."""

from __future__ import annotations

import errno

_NUMBERS = frozenset({errno.EMFILE, errno.ENFILE})


def none_left(error: BaseException) -> bool:
    """What failed so can be tried again when one is free."""
    return isinstance(error, OSError) and error.errno in _NUMBERS
