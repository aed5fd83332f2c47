"""The stored id of a node, which is used if the configuration has no id.

The id is created once, and stored in a file of the state folder. The journal refers to the node by
this id, so a damaged file is an error, and is not replaced. All processes with the same state
folder have the same id.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from fractal_rm.adapters.lock import FileLock, LockHeld
from fractal_rm.config.durable_files import replace_file, sync_folder
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.errors import FractalError
from fractal_rm.engine.ports import Random

FILE = "node-id"
TRIES, RETRY_S = 40, 0.05  # wait 2 s for another process that creates the file
_FORM = re.compile(rb"[0-9a-f]{12}")


class NodeIdUnreadable(FractalError):
    """The file `node-id` has no valid id, or it cannot be read or created."""

    code = "node-id-unreadable"


def stored_node_id(state: Path, random: Random) -> str:
    """Read or create the id in the state folder, which must exist. Raises NodeIdUnreadable."""
    path = state / FILE
    try:
        return _read(path) or _create(path, random)
    except OSError as error:
        reason = error.strerror or str(error)
        raise NodeIdUnreadable(
            f"{error.filename or path}: {reason}; the id of this node is stored there. Give the"
            " node permission to read and write this file, or set node.id in comm.conf"
        ) from error


def existing_node_id(state: Path) -> str | None:
    """Read the id in the state folder; None if there is none. Raises OSError, NodeIdUnreadable."""
    return _read(state / FILE)


def _read(path: Path) -> str | None:
    try:
        content = read_regular(path).strip()
    except FileNotFoundError:
        return None
    if _FORM.fullmatch(content) is None:
        raise NodeIdUnreadable(
            f"{path} has no valid node id (12 digits of 0 to 9 and a to f). Write this node's id"
            " into the file; `fractal-rm runs show` shows it with the facts of a run. Or delete the"
            " file: the node then creates a new id. If node.id in comm.conf is set, the file is not"
            " read"
        )
    return content.decode()


def _create(path: Path, random: Random) -> str:
    for _ in range(TRIES):
        try:
            lock = FileLock(path.with_name(f"{FILE}.lock"))
        except LockHeld:
            time.sleep(RETRY_S)
            continue
        try:
            return _read(path) or _write(path, random)
        finally:
            lock.release()
    raise NodeIdUnreadable(
        f"another process has locked {path}.lock for {TRIES * RETRY_S:.0f} s to create the id of"
        " this node; end that process"
    )


def _write(path: Path, random: Random) -> str:
    """Create an id. Sync the file and its folder, so that facts can refer to the id."""
    node_id = random.token(6).hex()
    replace_file(path, f"{node_id}\n".encode())
    sync_folder(path.parent)
    return node_id
