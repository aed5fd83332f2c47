"""Which errors say that all file descriptors of the process or of the machine are in use."""

from __future__ import annotations

import errno

NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE})
