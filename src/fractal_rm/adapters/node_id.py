"""The ids in the state folder: of the node, if the configuration has none, and of the folder.

Each id is created once, and stored in a file of the state folder. The journal refers to the node by
its id, and other nodes know the folder (the *store*, see `domain.handoff`) by its id, so a damaged
file is an error, and is not replaced. All processes with the same state folder have the same ids.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import NamedTuple

from fractal_rm.adapters.lock import FileLock, LockHeld
from fractal_rm.config.durable_files import replace_file, sync_folder
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.errors import FractalError
from fractal_rm.engine.ports import Random

TRIES, RETRY_S = 40, 0.05  # wait 2 s for another process that creates the file
_FORM = re.compile(rb"[0-9a-f]{12}")


class NodeIdUnreadable(FractalError):
    """A file with an id has no valid id, or it cannot be read or created."""

    code = "node-id-unreadable"


class _IdFile(NamedTuple):
    """A file with an id: its name, what the id is, and what helps if the file is damaged."""

    name: str
    what: str
    remedy: str


NODE_ID = _IdFile(
    "node-id",
    "the id of this node",
    "Write this node's id into the file; `fractal-rm runs show` shows it with the facts of a run."
    " Or delete the file: the node then creates a new id. If node.id in comm.conf is set, the file"
    " is not read",
)
STORE_ID = _IdFile(
    "store-id",
    "the id of this state folder",
    "Delete the file: the node then creates a new id. Other nodes that wait for an answer about a"
    " run then cannot learn from this node whether it has the run",
)


def stored_node_id(state: Path, random: Random) -> str:
    """Read or create the id of the node. The state folder must exist. Raises NodeIdUnreadable."""
    remedy = ", or set node.id in comm.conf"
    return _stored(state, NODE_ID, random, remedy)


def stored_store_id(state: Path, random: Random) -> str:
    """Read or create the id of the state folder, which must exist. Raises NodeIdUnreadable."""
    return _stored(state, STORE_ID, random, "")


def existing_node_id(state: Path) -> str | None:
    """Read the id of the node; None if it has none yet. Raises OSError, NodeIdUnreadable."""
    return _read(state / NODE_ID.name, NODE_ID)


def existing_store_id(state: Path) -> str | None:
    """Read the id of the folder; None if it has none yet. Raises OSError, NodeIdUnreadable."""
    return _read(state / STORE_ID.name, STORE_ID)


def _stored(state: Path, file: _IdFile, random: Random, other_remedy: str) -> str:
    path = state / file.name
    try:
        return _read(path, file) or _create(path, file, random)
    except OSError as error:
        reason = error.strerror or str(error)
        raise NodeIdUnreadable(
            f"{error.filename or path}: {reason}; {file.what} is stored there. Give the node"
            f" permission to read and write this file{other_remedy}"
        ) from error


def _read(path: Path, file: _IdFile) -> str | None:
    try:
        content = read_regular(path).strip()
    except FileNotFoundError:
        return None
    if _FORM.fullmatch(content) is None:
        raise NodeIdUnreadable(
            f"{path} does not have {file.what} (12 digits of 0 to 9 and a to f). {file.remedy}"
        )
    return content.decode()


def _create(path: Path, file: _IdFile, random: Random) -> str:
    for _ in range(TRIES):
        try:
            lock = FileLock(path.with_name(f"{file.name}.lock"))
        except LockHeld:
            time.sleep(RETRY_S)
            continue
        try:
            return _read(path, file) or _write(path, random)
        finally:
            lock.release()
    raise NodeIdUnreadable(
        f"another process has locked {path}.lock for {TRIES * RETRY_S:.0f} s to create"
        f" {file.what}; end that process"
    )


def _write(path: Path, random: Random) -> str:
    """Create an id. Sync the file and its folder, so that facts can refer to the id."""
    new_id = random.token(6).hex()
    replace_file(path, f"{new_id}\n".encode())
    sync_folder(path.parent)
    return new_id
