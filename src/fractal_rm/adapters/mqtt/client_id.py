"""The MQTT client id of a node. The id is kept over restarts, and locked by the process.

A broker allows one client per id. If two processes used the same id, the broker would disconnect
each of them again and again, without a visible reason. So a second process does not start.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from fractal_rm.adapters.lock import FileLock, LockHeld
from fractal_rm.config.durable_files import replace_file
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.errors import FractalError
from fractal_rm.engine.ports import Random

FILE = "mqtt-client-id"
MAX_BYTES = 65_535  # the longest string in MQTT (MQTT 5, 1.5.4)


class ClientIdInUse(FractalError):
    """Another process with this state folder uses the client id."""

    code = "client-id-in-use"


class ClientIdUnreadable(FractalError):
    """The file in the state folder does not contain a valid client id."""

    code = "client-id-unreadable"


class ClientId:
    """The client id of this process. The object locks the id until `release`.

    Raises ClientIdInUse, ClientIdUnreadable, OSError.

    ``configured`` is the id in comm.conf, if there is one. A configured id is locked, too, since
    several processes may use the same configuration. Each configured id has its own lock file,
    since nodes with different ids may share a state folder.
    """

    def __init__(self, configured: str | None, state: Path, random: Random) -> None:
        name = FILE
        if configured is not None:
            # The id itself may be too long for a file name, or contain slashes.
            name += "-" + blake2b(configured.encode(), digest_size=8).hexdigest()
        try:
            self._lock = FileLock(state / f"{name}.lock")
        except LockHeld as held:
            raise ClientIdInUse(
                f"the MQTT client id of this node is in use by process {held.by}; stop that process"
                " first, or give this node its own mqtt.client_id in comm.conf"
            ) from None
        try:
            self.text = configured or stored_client_id(state, random)
        except BaseException:
            self._lock.release()
            raise

    def release(self) -> None:
        """Unlock the client id, so that another process can use it."""
        self._lock.release()


def stored_client_id(state: Path, random: Random) -> str:
    """Return the id in the state folder. The first start creates it.

    Raises ClientIdUnreadable, OSError.

    A damaged file is not replaced, since the broker stores the session under the old id. With a new
    id, the messages that the broker has queued for this node would not arrive.
    """
    path = state / FILE
    try:
        stored = read_regular(path).strip()
    except FileNotFoundError:
        return _create(path, random)
    if not stored:
        return _create(path, random)
    if len(stored) > MAX_BYTES or not stored.isascii() or not stored.decode("ascii").isprintable():
        raise ClientIdUnreadable(
            f"{path} has no valid MQTT client id; write the id that this node had at the broker"
            " into this file, or delete the file: the node then creates a new id, and does not"
            " receive the messages that the broker has queued for the old id"
        )
    return stored.decode("ascii")


def _create(path: Path, random: Random) -> str:
    client_id = f"fractal-rm-{random.token(6).hex()}"
    replace_file(path, f"{client_id}\n".encode("ascii"))
    return client_id
