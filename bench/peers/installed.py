"""What peers have fetched: a folder for each, made once from its lock."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

PLACE = Path(__file__).parents[1] / ".peers"


def install_once(folder: Path, lock: Path, make: Callable[[Path], None]) -> None:
    """Makes the folder, unless it was made from this very lock before.

    The mark is written last, so that an install that was cut short begins anew.
    """
    mark = folder / ".made-from"
    if mark.exists() and mark.read_bytes() == lock.read_bytes():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)
    shutil.copyfile(lock, mark)
