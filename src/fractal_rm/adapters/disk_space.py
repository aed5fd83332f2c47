"""How much room a disk has."""

from __future__ import annotations

import os
from pathlib import Path

from fractal_rm.domain.conditions import Disk


def disk_space(folder: Path) -> Disk | None:
    """The disk of a folder: the space for programs without special rights. None: not known."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return Disk(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
