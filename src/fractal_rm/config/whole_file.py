"""Small files that are replaced: after a crash there is the old content or the new, whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def replace_file(path: Path, content: bytes, *, alike: bool = False) -> None:
    """Replace ``path`` whole and durably. Blocks for the disk. Raises OSError.

    ``alike``: the new file gets the mode and the owner of the one that is there. Else, written by
    root, it gets the owner of its folder: whoever has that must be able to read it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)  # of an earlier process with this number
        with temporary.open("xb") as file:
            if alike:
                shutil.copymode(path, temporary)
                _give_to_owner_of(path, temporary)
            elif os.geteuid() == 0:
                _give_to_owner_of(path.parent, temporary)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _give_to_owner_of(other: Path, temporary: Path) -> None:
    owned = other.stat()
    mine = temporary.stat()
    if (owned.st_uid, owned.st_gid) != (mine.st_uid, mine.st_gid):
        os.chown(temporary, owned.st_uid, owned.st_gid)
