"""The id of a node that has none in its configuration: made once, and kept in its state folder.

Facts name the node that took a run by it, for ever, so a file that does not hold one is not
replaced unasked. The processes of a state folder are one node.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from fractal_rm.adapters.lock import FileLock, Held
from fractal_rm.config.regular_file import read_regular
from fractal_rm.config.whole_file import replace_file, sync_folder
from fractal_rm.domain.errors import FractalError
from fractal_rm.engine.ports import Random

FILE = "node-id"
TRIES, RETRY_S = 40, 0.05  # while another process makes it
_FORM = re.compile(rb"[0-9a-f]{12}")


class NodeIdUnreadable(FractalError):
    """The file in the state folder does not hold one, or cannot be read or made."""

    code = "node-id-unreadable"


def kept_node_id(state: Path, random: Random) -> str:
    """The one in the state folder, which is there. Raises NodeIdUnreadable."""
    path = state / FILE
    try:
        return _kept(path) or _make(path, random)
    except OSError as error:
        why = error.strerror or str(error)
        raise NodeIdUnreadable(
            f"{error.filename or path}: {why}; the id of this node is kept there. Let the node read"
            " and write it, or give it an id of its own: node.id in comm.conf"
        ) from error


def _kept(path: Path) -> str | None:
    try:
        kept = read_regular(path).strip()
    except FileNotFoundError:
        return None
    if _FORM.fullmatch(kept) is None:
        raise NodeIdUnreadable(
            f"{path} does not hold the id of a node, 12 digits of 0 to 9 and a to f; write the one"
            " into it by which facts name this node (`fractal-rm runs show`), or delete the file:"
            " the node then takes a new id. With node.id in comm.conf it is not read"
        )
    return kept.decode()


def _make(path: Path, random: Random) -> str:
    for _ in range(TRIES):
        try:
            lock = FileLock(path.with_name(f"{FILE}.lock"))
        except Held:
            time.sleep(RETRY_S)
            continue
        try:
            return _kept(path) or _keep(path, random)
        finally:
            lock.release()
    raise NodeIdUnreadable(f"{path} is being made by another process, which does not end")


def _keep(path: Path, random: Random) -> str:
    """On the disk with its name before any fact has it."""
    node_id = random.token(6).hex()
    replace_file(path, f"{node_id}\n".encode())
    sync_folder(path.parent)
    return node_id
